"""The dashboard in a real browser: by eye, by keyboard, by screen reader."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from launcher import home
from tests.launcher.dashboard.browser import PHONE, browser, dashboard, needs_browser, opened
from tests.launcher.recorded_run import SPEC, record_run
from tests.launcher.status.events import RIDE, event
from tests.launcher.status.test_ledger import BEGINS, ENDS, trained
from trainer.rundir import formats
from trainer.rundir.batches import Batch, encode
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event
from trainer.rundir.numbers import dumped

pytestmark = needs_browser


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return tmp_path


def tell(directory: RunDirectory, number: int, events: list[Event]) -> None:
    directory.store.write(Batch("leader-1", number).name, encode(map(dumped, events)))


def two_runs() -> RunDirectory:
    """One is over, one goes on, and a third cannot be read. Returns the one that goes on."""
    over, going = record_run("over"), record_run("going", created=2e9)
    tell(over, 0, [*BEGINS, trained(), ENDS])
    over.end("succeeded", "training is complete")
    tell(going, 0, RIDE)
    bad = home.folder() / "runs" / "bad"
    bad.mkdir()
    (bad / "run.json").write_text("{")
    return going


def test_a_run_is_found_opened_and_followed_by_the_keyboard_alone(swell_home: Path) -> None:
    going = two_runs()
    with dashboard(swell_home) as (url, _), browser() as found, opened(found, url, "light") as web:
        web.go()
        web.wait("2 runs: 1 queued, 1 succeeded")
        web.wait("bad: cannot be read")
        web.check("runs")
        web.press("Tab")
        assert web.focused == "Skip to the content"
        web.tab_to("going")
        web.press("Enter")
        web.wait("workerpool1-1 is lost (silent)")
        web.wait("Workers slower than the others")
        web.check("run")
        web.tab_to("The world over time: the numbers")
        web.press("Enter")
        tell(going, 1, [event("checkpoint_committed", 150.0, step=16)])
        web.wait("checkpoint of step 16 is saved")
        details = web.page.locator("details[open] > summary")
        assert details.all_text_contents() == ["The world over time: the numbers"]
        assert web.focused == "The world over time: the numbers", "news take no focus away"
        web.page.get_by_label("workerpool1-1: lost").focus()
        web.press("Enter")
        web.wait("What it printed")
        web.check("replica")


@pytest.mark.soak
@pytest.mark.parametrize(("look", "size", "dark"), [
    ("dark", (1100, 900), True),
    ("phone", PHONE, False),
    ("dark-phone", PHONE, True),
])  # fmt: skip
def test_every_page_is_for_everybody(
    swell_home: Path, look: str, size: tuple[int, int], dark: bool
) -> None:
    two_runs()
    replica = "replica?name=workerpool1-1"
    pages = {
        "runs": ("", "2 runs"),
        "run": ("runs/over", "Configuration"),
        "replica": (f"runs/going/{replica}", "What it printed"),
        "logs": ("runs/going/logs", "Logs of going"),
        "cancel": ("runs/going/cancel", "Cancel going?"),
        "preempt": (f"runs/going/{replica.replace('replica', 'preempt')}", "Take workerpool1-1"),
        "new": ("new", "name: is missing"),
        "missing": ("runs/nothing", "there is no run nothing here"),
    }
    with (
        dashboard(swell_home) as (url, _),
        browser() as found,
        opened(found, url, look, size, dark) as web,
    ):
        for name, (path, text) in pages.items():
            web.go(path)
            web.wait(text)
            web.check(name)
            assert web.page.locator("h1").count() == 1, name


@pytest.mark.soak
def test_a_job_is_planned_while_it_is_typed(swell_home: Path) -> None:
    with dashboard(swell_home) as (url, _), browser() as found, opened(found, url, "plan") as web:
        web.go("new")
        web.wait("name: is missing")
        web.page.get_by_label("name (required)", exact=True).fill("digits")
        web.page.get_by_label("task", exact=True).fill("trainer.tasks.digits:Digits")
        web.wait("USD per hour")
        web.page.get_by_text("pools 1 (another)").click()
        web.page.locator("#pools\\.1\\.machine").select_option("a2-highgpu-8g")
        web.page.locator("#pools\\.1\\.replicas").fill("many")
        web.wait("pools.1.replicas: is 'many'")
        web.page.locator("#pools\\.1\\.replicas").fill("3")
        web.page.locator("#plan").get_by_text("workerpool1").first.wait_for(state="attached")
        web.check("job")


@pytest.mark.soak
def test_a_dashboard_that_is_gone_is_told_and_what_was_shown_stays(swell_home: Path) -> None:
    two_runs()
    with browser() as found, ExitStack() as windows:
        with dashboard(swell_home) as (url, _):
            web = windows.enter_context(opened(found, url, "gone"))
            web.go("runs/over")
            web.wait("Configuration")
            web.gone = True
        web.wait("The dashboard does not answer")
        assert web.page.get_by_text("The run is complete at step 10.").count() == 1
        web.check("gone")


@pytest.mark.soak
def test_a_run_that_cannot_be_read_any_more_is_told_beside_what_was_known(
    swell_home: Path,
) -> None:
    two_runs()
    with dashboard(swell_home) as (url, _), browser() as found, opened(found, url, "error") as web:
        web.go("runs/going")
        web.wait("workerpool1-1 is lost (silent)")
        (swell_home / "runs" / "going" / "outcome.json").mkdir()  # no file
        web.page.locator("#trouble [role=alert]").wait_for()
        assert web.page.get_by_text("workerpool1-1 is lost (silent)").count() > 0
        web.check("error")


@pytest.mark.soak
def test_a_thousand_replicas_are_a_sign_each(swell_home: Path) -> None:
    directory = home.directory_for("crowd", None)
    pools = [{"machine": "a2-highgpu-1g"}, {"machine": "a2-highgpu-1g", "replicas": 999}]
    record = {"id": "crowd", "target": "vertex", "created": 1e9, "by": "x"}
    record |= {"spec": {**SPEC, "pools": pools}, **formats.RUN.stamp()}
    home.create(directory, record)
    tell(directory, 0, [event("member_ready", 1.0, member=f"workerpool1-{n}") for n in range(990)])
    with (
        dashboard(swell_home) as (url, _),
        browser() as found,
        opened(found, url, "thousand", PHONE) as web,
    ):
        web.go("runs/crowd")
        web.wait("1,000 replicas")
        assert web.page.locator(".blocks a").count() == 1000
        web.check("run")
        web.page.locator("#replicas .skip").focus()
        web.press("Enter")
        assert web.page.evaluate("location.hash") == "#events"


@pytest.mark.soak
def test_the_address_is_in_no_command_line_and_no_referer(swell_home: Path) -> None:
    two_runs()
    with dashboard(swell_home) as (url, process), browser() as found:
        token = url.rstrip("/").rpartition("/")[2]
        assert token.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        with opened(found, url, "token") as web:
            seen = []
            web.page.on("request", lambda it: seen.append((it.url, it.headers.get("referer", ""))))
            web.go("runs/over")
            web.wait("Configuration")
            assert seen and all(where.startswith(url.rpartition(token)[0]) for where, _ in seen)
