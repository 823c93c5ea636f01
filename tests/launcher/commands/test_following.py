"""A run is shown until its end, whoever reads, whatever does not answer."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from launcher.commands import following
from launcher.commands.following import Following, Left, Stops, see_through, stops
from launcher.draft import Draft, create, prepare
from launcher.job.job import Job
from launcher.status.status import Outcome
from launcher.supervision import silence
from launcher.views.outlet import Outlet
from tests.trainer.ranks import PATIENCE
from trainer.rundir.directory import RunDirectory

JOB = Job.model_validate({"name": "j", "task": "my.tasks:C", "pools": ["a2-highgpu-1g"]})


class Played:
    """A run that ends when the test says so.

    Attributes:
        cancelled: set when somebody asks for that.
        over: to be set.
        remote: whether its VMs end by themselves.
    """

    def __init__(self, draft: Draft) -> None:
        self.id = draft.run_id
        self.directory: RunDirectory = draft.directory
        self.draft = draft
        self.over = threading.Event()
        self.cancelled = threading.Event()
        self.abandoned = threading.Event()
        self.cancel_fails: Exception | None = None
        self.remote = False
        self.looks_on = False
        self.state = "succeeded"
        self.waits_for: list[str] = []

    def told(self) -> list[str]:
        return self.waits_for

    @property
    def ended(self) -> bool:
        return self.over.is_set()

    def join(self, timeout: float) -> None:
        self.over.wait(timeout)

    def wait(self) -> Outcome:
        return Outcome(self.state, "", {})

    def cancel(self, reason: str) -> None:
        self.cancelled.set()
        if self.cancel_fails is not None:
            raise self.cancel_fails

    def abandon(self) -> bool:
        self.abandoned.set()
        return not self.remote


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(following, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(following, "LAST_LOOK", 0.1)
    draft = prepare(JOB, "local", "one")
    create(draft)
    home.local_folder("one").mkdir(parents=True)
    played = Played(draft)
    yield played
    played.over.set()


class Command:
    """A command that follows a run, in a thread, and what it prints."""

    def __init__(self, run: Played) -> None:
        self.asked = Stops()
        self.asked.interrupt = False
        self.printed = io.StringIO()
        self.out = Outlet(self.printed)
        self.state = ""
        self.error: Exception | None = None
        self._following = Following(run, self.out, self.asked)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            self.state = self._following.follow()
        except Exception as error:
            self.error = error

    def stop(self, number: int = signal.SIGINT) -> None:
        self.asked(number, None)

    def ended(self) -> str:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.out.drain()
        return self.printed.getvalue()

    def until(self, said: str) -> None:
        waited = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if said in self.printed.getvalue():
                return
            waited.wait(0.01)
        raise AssertionError(f"{said!r} is not in {self.printed.getvalue()!r}")


def hangs(run: Played, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """From now on the run directory does not answer. Returns what is set once somebody waits."""
    waits = threading.Event()

    def read(name: str, limit: int | None = None) -> bytes:
        waits.set()
        run.over.wait()
        raise OSError("it never answered")

    monkeypatch.setattr(run.directory.store, "read", read)
    return waits


def test_it_is_followed_to_its_end(run: Played) -> None:
    command = Command(run)
    command.until("run one (local) in ")
    run.over.set()
    command.ended()
    assert command.state == "succeeded"


def test_ctrl_c_cancels_at_once_though_the_run_directory_does_not_answer(
    run: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = hangs(run, monkeypatch)
    command = Command(run)
    assert waits.wait(PATIENCE)
    command.stop()
    assert run.cancelled.wait(PATIENCE)
    run.state = "cancelled"
    run.over.set()
    assert "cancelling the run" in command.ended()
    assert command.state == "cancelled"


def test_what_a_cancelled_run_still_waits_for_is_told_and_how_to_leave_it(
    run: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "SAY_AFTER", 0.05)
    run.waits_for = ["https://e has not cancelled attempt 1 for 5 s; asking until it does"]
    command = Command(run)
    command.until("cancelled attempt 1")
    command.stop()
    command.until(
        "waiting for the end of its machines (https://e has not cancelled attempt 1 for 5 s; "
        "asking until it does); Ctrl-C again stops them at once\n"
    )
    run.over.set()
    assert command.ended().count("waiting for the end") == 1


@pytest.mark.parametrize("looks_on", [False, True])
def test_sigterm_does_not_end_a_run_that_its_controller_looks_after(
    run: Played, looks_on: bool
) -> None:
    run.looks_on = looks_on
    command = Command(run)
    command.stop(signal.SIGTERM)
    if looks_on:
        command.ended()
        assert isinstance(command.error, Left) and command.error.id == "SW2142"
    else:
        assert run.cancelled.wait(PATIENCE)
    assert run.cancelled.is_set() != looks_on


def test_ctrl_c_cancels_a_run_whoever_looks_after_it(run: Played) -> None:
    run.looks_on = True
    command = Command(run)
    command.stop()
    assert run.cancelled.wait(PATIENCE)
    command.until("cancelling the run")


def test_a_second_ctrl_c_stops_local_vms_though_nothing_answers(
    run: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs(run, monkeypatch)
    monkeypatch.setattr(run, "cancel", lambda reason: threading.Event().wait(PATIENCE))
    command = Command(run)
    command.stop()
    command.until("cancelling the run")
    command.stop()
    assert run.abandoned.wait(PATIENCE)
    run.over.set()
    command.ended()
    assert command.error is None


def test_a_second_ctrl_c_leaves_what_goes_on_elsewhere_and_says_so(run: Played) -> None:
    run.remote = True
    command = Command(run)
    command.stop()
    assert run.cancelled.wait(PATIENCE)
    command.stop()
    command.ended()
    assert isinstance(command.error, Left)
    assert "swell cancel one" in str(command.error)


def test_local_vms_that_do_not_go_are_left_in_the_end(
    run: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ABANDON_LIMIT", 0.05)
    monkeypatch.setattr(run, "abandon", lambda: threading.Event().wait(PATIENCE))
    command = Command(run)
    command.stop()
    command.stop()
    command.ended()
    assert isinstance(command.error, Left)


def test_a_cancellation_that_fails_is_told(run: Played) -> None:
    run.cancel_fails = OSError(30, os.strerror(30))
    command = Command(run)
    command.stop()
    command.until("the run could not be cancelled: [Errno 30] Read-only file system; Ctrl-C again")
    run.over.set()
    assert command.ended().count("could not be cancelled") == 1


def test_a_terminal_that_hangs_up_ends_no_run(run: Played) -> None:
    command = Command(run)
    command.until("run one")
    command.asked(signal.SIGHUP, None)
    log = home.local_folder("one") / "launch.log"
    for _ in range(int(PATIENCE / 0.01)):
        if log.exists() and "swell attach" in log.read_text():
            break
        threading.Event().wait(0.01)
    assert "the terminal is gone and run one goes on" in log.read_text()
    assert not run.cancelled.is_set()
    run.over.set()
    command.ended()
    assert command.state == "succeeded"


def test_a_run_directory_that_cannot_be_read_is_told_once_and_waited_for(
    run: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = run.directory.store.read

    def refuse(name: str, limit: int | None = None) -> bytes:
        raise OSError("503")

    monkeypatch.setattr(run.directory.store, "read", refuse)
    command = Command(run)
    command.until("cannot be read: 503\n")
    monkeypatch.setattr(run.directory.store, "read", read)
    command.until("over: ")
    run.over.set()
    assert command.ended().count("cannot be read: 503\n") == 2  # once, and that it is over


def test_a_full_disk_is_told_at_once(run: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "troubles_of", lambda *asked: ["the disk / is full"])
    command = Command(run)
    command.until("the disk / is full\n")
    run.over.set()
    assert command.ended().count("the disk / is full\n") == 1


def test_a_run_directory_that_does_not_answer_at_all_is_told_before_its_client_gives_up(
    run: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SAY_AFTER", 0.05)
    hangs(run, monkeypatch)
    command = Command(run)
    told = f"{run.directory.url} has not answered for 0 s; asking until it does\n"
    command.until(told)
    run.over.set()  # only now does its client give up
    assert command.ended().count(told) == 1


def test_what_the_run_waits_for_is_told_once_and_when_it_is_over(run: Played) -> None:
    command = Command(run)
    run.waits_for = ["https://e has not taken attempt 1 for 5 s; trying for 115 s more"]
    command.until("trying for 115 s more\n")
    run.waits_for = [*run.waits_for, "no route to host"]
    command.until("no route to host\n")
    run.waits_for = []
    command.until("over: no route to host\n")
    run.over.set()
    assert command.ended().count("trying for 115 s more\n") == 2  # once, and that it is over


ENDINGS: list[Callable[[], Any]] = [
    lambda: os.kill(os.getpid(), signal.SIGINT),
    lambda: os.kill(os.getpid(), signal.SIGTERM),
]


@pytest.mark.parametrize("end", ENDINGS)
def test_while_a_run_starts_one_request_to_stop_is_enough(end: Callable[[], Any]) -> None:
    def start() -> Any:
        end()
        threading.Event().wait(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        see_through(start, as_json=False)


def test_a_terminal_that_hangs_up_while_a_run_starts_ends_nothing() -> None:
    with stops() as asked:
        os.kill(os.getpid(), signal.SIGHUP)
        threading.Event().wait(0.01)
    assert (asked.hung_up, asked.count) == (True, 0)


def test_whoever_has_closed_the_pipe_does_not_change_how_it_ended(
    run: Played, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        threading.Timer(0.1, run.over.set).start()
        run.state = "failed"
        assert see_through(lambda: run, as_json=True) == "failed"  # type: ignore[arg-type,return-value]
    assert (
        "nobody takes the output any more (Broken pipe); run one goes on, "
        "and swell status one shows it" in capfd.readouterr().err
    )
