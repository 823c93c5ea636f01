"""The dashboard's neighbours: another user of this machine, and a page in its user's own browser.

Both know the whole address here, which they should not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.launcher.dashboard.browser import browser, dashboard, needs_browser, opened
from tests.launcher.recorded_run import record_run
from tests.neighbours.places import as_another_user, as_root, exchange


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return tmp_path


@as_root
def test_another_user_gets_no_answer_even_with_the_address(swell_home: Path) -> None:
    record_run("one")
    with dashboard(swell_home) as (url, _):
        where = urlsplit(url)
        address = (str(where.hostname), int(where.port or 0))
        for path in (where.path, f"{where.path}runs/one/cancel"):
            said = as_another_user(partial(exchange, address, "GET", path))
            assert "403 Forbidden" in said and "user who started" in said
        assert "200 OK" in exchange(address, "GET", where.path), "its own user is answered"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>another site</title>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def another_site() -> Iterator[str]:
    site = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_port}/"
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


TRIES = """
async url => {
  const seen = [];
  for (const options of [{}, {mode: "no-cors"}, {method: "POST"},
                         {method: "POST", mode: "no-cors", credentials: "include"}]) {
    try { const answer = await fetch(url + "runs/one/cancel", options);
          seen.push([answer.type, await answer.text()]); }
    catch (error) { seen.push(["error", ""]); }
  }
  const told = kind => new Promise(done => {
    const one = document.createElement(kind);
    one.onload = () => done([kind, "loaded"]); one.onerror = () => done([kind, ""]);
    one.src = url + "static/dashboard.js"; document.body.append(one);
  });
  seen.push(await told("script"));
  const form = document.createElement("form");
  form.method = "post"; form.action = url + "runs/one/cancel"; form.target = "_self";
  document.body.append(form); form.submit();
  return seen;
}
"""


@pytest.mark.soak
@needs_browser
def test_another_sites_page_sees_and_does_nothing_even_with_the_address(swell_home: Path) -> None:
    directory = record_run("one")
    with (
        another_site() as site,
        dashboard(swell_home) as (url, _),
        browser() as found,
        opened(found, url, "another-site") as web,
    ):
        web.page.goto(site)
        seen = web.page.evaluate(TRIES, url)
        assert len(seen) == 5 and all(text == "" for _, text in seen), seen
        web.wait("[SW6292]")  # what its form was answered
        assert directory.outcome() is None
