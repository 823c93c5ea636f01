"""``swell watch``: a run from anywhere, until it is over, and nothing is changed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from launcher.commands.watched import LOOK_EVERY, Watched
from tests.launcher.recorded_run import record_attempt, record_run
from tests.launcher.status.events import RIDE, event
from trainer.rundir.batches import Batch, encode
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event
from trainer.rundir.numbers import dumped


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return tmp_path


class Terminal(io.StringIO):
    """Where a view is drawn."""

    def isatty(self) -> bool:
        return True


def write(directory: RunDirectory, number: int, events: list[Event]) -> None:
    directory.store.write(Batch("leader-1", number).name, encode(map(dumped, events)))


def test_a_run_that_is_over_is_told_in_plain_lines_and_summed_up() -> None:
    directory = record_run("one")
    write(directory, 0, RIDE)
    directory.end("succeeded", "training is complete")
    before = sorted(Path(directory.url).rglob("*"))
    answer = CliRunner().invoke(app, ["watch", "one"])
    assert answer.exit_code == 0, answer.output
    assert "workerpool1-1 is lost (silent)" in answer.stdout
    assert "one succeeded" in answer.stdout and "\x1b" not in answer.stdout
    assert sorted(Path(directory.url).rglob("*")) == before, "nothing is written"


def test_it_is_followed_to_its_end() -> None:
    directory = record_run("one")
    record_attempt(directory, "e", state="RUNNING")
    write(directory, 0, RIDE[:3])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            assert "lost" not in out.getvalue()
            write(directory, 1, RIDE[3:])
        if len(slept) == 2:
            assert "workerpool1-1 is lost" in out.getvalue(), "as it happens"
            write(directory, 2, [event("finished", 150.0, state="failed", step=16)])
            directory.end("failed", "it is broken")

    out = io.StringIO()
    Watched(directory).follow(out, sleep)
    assert slept == [LOOK_EVERY] * 2
    assert "the run has failed at step 16" in out.getvalue()
    assert out.getvalue().rstrip().endswith("it is broken")
    assert out.getvalue().count("workerpool1-1 is lost") == 1


def test_on_a_terminal_the_picture_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    directory = record_run("one")
    write(directory, 0, RIDE)
    directory.end("succeeded", "training is complete")
    out = Terminal()
    Watched(directory).follow(out, lambda seconds: pytest.fail("it is over"))
    shown = out.getvalue().rpartition("swell ")[2]
    assert "workers" in shown and "succeeded" in shown and "is lost" in shown


def test_a_directory_that_is_away_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = record_run("one")
    record_attempt(directory, "e", state="RUNNING")
    write(directory, 0, RIDE)
    real, looks = RunDirectory.outcome, [0]

    def outcome(self: RunDirectory) -> object:
        looks[0] += 1
        if looks[0] in (2, 3):
            raise OSError("the disk is away")
        return real(self)

    def sleep(seconds: float) -> None:
        if looks[0] == 3:
            directory.end("succeeded", "training is complete")

    monkeypatch.setattr(RunDirectory, "outcome", outcome)
    out = io.StringIO()
    Watched(directory).follow(out, sleep)
    assert out.getvalue().count("cannot be read: the disk is away; looking again") == 1
    assert "one succeeded" in out.getvalue()


def test_ctrl_c_leaves_the_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = record_run("one")
    record_attempt(directory, "e", state="RUNNING")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    answer = CliRunner().invoke(app, ["watch", "one"])
    assert answer.exit_code == 0
    assert "swell: run one goes on without being watched" in answer.stderr
    assert directory.outcome() is None


def test_a_run_that_is_not_there() -> None:
    answer = CliRunner().invoke(app, ["watch", "no-such-run"])
    assert answer.exit_code == 2 and "there is no such run" in answer.stderr


def test_a_local_run_that_is_abandoned_is_not_watched_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = record_run("one", target="local")
    monkeypatch.setattr("launcher.commands.watched.is_abandoned", lambda run, where: True)
    out = io.StringIO()
    Watched(directory).follow(out, lambda seconds: pytest.fail("nobody will write any more"))
    assert "the process that launched it is gone" in out.getvalue()
