"""What each address of the dashboard answers, and what it takes to have something done."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from launcher import home
from launcher.dashboard.acts import Acts
from launcher.dashboard.place import Place
from launcher.dashboard.planning import Planner
from launcher.dashboard.server import Dashboard
from tests.launcher.emulator.running import wait_for
from tests.launcher.recorded_run import record_run
from tests.launcher.status.events import RIDE, event
from tests.launcher.status.test_ledger import BEGINS, ENDS, trained
from trainer.rundir.batches import Batch, encode
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event
from trainer.rundir.numbers import dumped
from trainer.rundir.usererror import UserError

HERE = "http://127.0.0.1:4000"
NASTY = "<script>alert(1)</script>"


class Asked:
    """What was asked for on pages."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.happened = threading.Event()

    def cancel(self, directory: RunDirectory) -> str:
        return self._do("cancel", directory.url)

    def preempt(self, directory: RunDirectory, replica: str, notice: str | None) -> str:
        return self._do("preempt", replica, str(notice))

    def _do(self, *what: str) -> str:
        self.done.append(what)
        self.happened.set()
        if self.error is not None:
            raise self.error
        return f"done: {' '.join(what[:1])}\nand well"


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def web(asked: Asked, tmp_path: Path) -> Iterator[TestClient]:
    dashboard = Dashboard(
        Place(None), Acts(asked.cancel, asked.preempt), Planner(tmp_path, {"A": "b"})
    )
    with TestClient(dashboard.app, base_url=f"{HERE}{dashboard.path}") as client:
        yield client
    for thread in threading.enumerate():
        if thread.name in ("swell-dashboard", "swell-act"):
            thread.join()


def record(run_id: str, events: list[Event], target: str = "vertex") -> RunDirectory:
    directory = record_run(run_id, target=target)
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, events)))
    return directory


def shown(web: TestClient, path: str, *texts: str) -> str:
    """The page at a path, once it shows the texts."""

    def look() -> str:
        answer = web.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    return wait_for(look, lambda text: all(one in text for one in texts))


def post(web: TestClient, path: str, **fields: str) -> Any:
    return web.post(path, data=fields, headers={"Origin": HERE}, follow_redirects=False)


def test_all_runs_with_how_they_are_newest_first(web: TestClient) -> None:
    record("one", [*BEGINS, trained(), ENDS]).end("succeeded", "training is complete")
    record("two", RIDE)
    text = shown(web, "", "2 runs: 1 queued, 1 succeeded")
    assert text.index("/runs/two") < text.index("/runs/one")
    assert "<td>succeeded</td><td>10</td>" in text


def test_no_runs_are_a_word(web: TestClient) -> None:
    assert 'role="alert"' not in shown(web, "", "There are no runs here yet")


def test_a_bad_run_is_told_beside_the_others(web: TestClient, swell_home: Path) -> None:
    record("one", RIDE)
    (swell_home / "runs" / "bad").mkdir()
    (swell_home / "runs" / "bad" / "run.json").write_text("{}")
    shutil.copytree(swell_home / "runs" / "one", swell_home / "runs" / "two")
    text = shown(web, "", "/runs/one", "bad: cannot be read")
    assert 'role="alert"' in text and "[SW2006]" in text
    assert "runs/two: is a copy of run one; it is not shown [SW6294]" in text


def test_a_run_has_the_pictures_of_its_report(web: TestClient) -> None:
    record("one", [*BEGINS, trained(), ENDS]).end("succeeded", "training is complete")
    text = shown(web, "runs/one", "The run is complete at step 10.", "<h2>Configuration</h2>")
    text = shown(web, "runs/one", "The pictures, and what is below them, are of ")
    assert text.count('role="img"') == 5, "timeline, loss, rates, ledger, cost"
    assert "Cancel this run" not in text, "it is over"


def test_a_run_that_goes_on_is_renewed(web: TestClient) -> None:
    directory = record("one", RIDE)
    shown(web, "runs/one", "16", "1 with notice, 1 without")
    saved = [event("checkpoint_committed", 150.0, step=16)]
    directory.store.write(Batch("leader-1", 1).name, encode(map(dumped, saved)))
    assert "checkpoint of step 16 is saved" in shown(web, "runs/one", "step 16 is saved")


def test_a_replica_has_its_lives_its_events_and_its_log(web: TestClient) -> None:
    record("one", RIDE, target="local")
    text = shown(web, "runs/one/replica?name=workerpool1-1", "Its events", "What it printed")
    assert "workerpool1-1 is lost (silent)" in text and "workerpool1-0 has" not in text
    assert "its logs are there [SW2008]" in text, "it was launched elsewhere"
    assert "Take its VM away" in text


def test_what_is_not_there_says_so(web: TestClient) -> None:
    record("one", RIDE)
    for path in ("runs/none", "runs/one/replica", "x", "static/x"):
        answer = web.get(path)
        assert answer.status_code == 404 and "[SW6297]" in answer.text, path
    shown(web, "runs/one", "<h2>3 replicas</h2>")
    assert "there is no run none here" in web.get("runs/none").text
    assert "one has no replica none" in web.get("runs/one/replica?name=none").text


def test_a_run_is_cancelled_only_once_that_is_confirmed(web: TestClient, asked: Asked) -> None:
    directory = record("one", RIDE)
    assert "Cancel one?" in web.get("runs/one/cancel").text
    assert not asked.done
    answer = post(web, "runs/one/cancel")
    assert answer.status_code == 303 and answer.headers["location"].endswith("/runs/one")
    assert asked.happened.wait(60) and asked.done == [("cancel", directory.url)]
    shown(web, "runs/one", "cancelling the run…", "done: cancel", "and well")


def test_a_vm_is_taken_away_as_it_was_chosen(web: TestClient, asked: Asked) -> None:
    record("one", RIDE)
    path = "runs/one/preempt?name=workerpool1-0"
    assert "Take workerpool1-0 away?" in web.get(path).text
    for notice, told in (("30s", "30s"), ("", "None")):
        asked.happened.clear()
        assert post(web, path, notice=notice).status_code == 303
        assert asked.happened.wait(60) and asked.done[-1] == ("preempt", "workerpool1-0", told)
    bad = post(web, path, notice="1h")
    assert bad.status_code == 400 and "choose one that the form has [SW6299]" in bad.text
    shown(web, "runs/one", "<h2>3 replicas</h2>")
    assert post(web, "runs/one/preempt?name=none").status_code == 404
    assert len(asked.done) == 2


def test_what_fails_is_told_on_the_runs_page(web: TestClient, asked: Asked) -> None:
    record("one", RIDE)
    asked.error = UserError("SW3018", f"no answer {NASTY}")
    post(web, "runs/one/cancel")
    text = shown(web, "runs/one", "cancelling the run has failed: no answer")
    assert "[SW3018]" in text and NASTY not in text


def test_no_other_page_has_anything_done(web: TestClient, asked: Asked) -> None:
    record("one", RIDE)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:4001"):
        answer = web.post("runs/one/cancel", headers={"Origin": origin})
        assert answer.status_code == 403 and "[SW6292]" in answer.text
    assert web.post("runs/one/cancel").status_code == 403, "nor who does not say where it is from"
    assert web.get("runs/one/cancel", headers={"Host": "evil.example"}).status_code == 403
    assert not asked.done


def test_a_job_is_planned_as_it_is_typed(web: TestClient) -> None:
    assert "name: is missing" in web.get("new").text
    fields = {"name": "digits", "task": "m:C", "pools.0.machine": "a2-highgpu-1g"}
    answer = web.post("new?part=plan", data=fields, headers={"Origin": HERE})
    assert answer.status_code == 200 and answer.text.startswith("<h3>Machines and prices</h3>")
    whole = post(web, "new", **fields)
    assert "Machines and prices" in whole.text and 'value="digits"' in whole.text
    assert post(web, "new", name="x" * 300_000).status_code == 413


def test_what_a_run_says_is_text(web: TestClient) -> None:
    nasty = [
        event("loss", 1.0, member=NASTY, reason=NASTY),
        event("member_ready", 1.0, member=f'"{NASTY}'),
    ]
    record("one", nasty)
    text = shown(web, "runs/one", "alert(1)", "<h2>Configuration</h2>")
    assert NASTY not in text
    page = shown(web, f"runs/one/replica?name={NASTY}", "Its events")
    assert NASTY not in page and "alert(1)" in page


def test_a_log_is_the_newest_lines_as_they_were_printed(web: TestClient) -> None:
    directory = record_run("one", target="local", by=home.whoami())
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, RIDE)))
    log = home.local_folder("one") / "logs" / "7" / "workerpool1-1.jsonl"
    log.parent.mkdir(parents=True)
    lines = [
        {"timestamp": "2026-01-01T12:00:00Z", "severity": "INFO", "message": f"  {n} <b>\x1b[2J"}
        for n in range(400)
    ]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    text = shown(web, "runs/one/replica?name=workerpool1-1", "workerpool1-1   399 &lt;b&gt;")
    assert 'class="log" tabindex="0"' in text and "has 100 before them" in text
    assert "workerpool1-1   100 " in text and "workerpool1-1   99 " not in text
    assert "workerpool1-1   399 &lt;b&gt;" in shown(web, "runs/one/logs", "399")
    with log.open("a") as file:
        file.write(json.dumps({**lines[0], "message": "one more"}) + "\n")
    shown(web, "runs/one/logs", "one more")
