"""A worker that is slower than the others is found in a real world, named with what slows it, and
replaced when that is asked for.

What slows it is what slows machines: signals that stop it, a limit on its processor time, another
process on its core, data that come late. Reports are of ten seconds of training each, so each takes
minutes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from launcher.emulator.vms import netns
from tests.chaos.run import Run, Undisturbed
from tests.trainer.agent.test_stacks import endless, process
from tests.trainer.agent.test_strain import NO_GROUPS, limited
from trainer.rundir.events import Event

KIND = "process" if netns.missing() else "netns"


def told(run: Run) -> list[Event]:
    run.look()
    return [one for one in run.events if one["event"] == "straggler"]


@contextmanager
def often_stopped(run: Run) -> Iterator[None]:
    """Signals let the process run for a third of the time."""
    worker, over = run.rank(2).workers()[0], threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            for number, seconds in ((signal.SIGSTOP, 0.2), (signal.SIGCONT, 0.1)):
                with suppress(ProcessLookupError):
                    os.kill(worker, number)
                over.wait(seconds)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


@contextmanager
def throttled(run: Run) -> Iterator[None]:
    """Its group has a hundredth of a processor."""
    with limited(run.rank(2).workers()[0], percent=1, kill=False):
        yield


def of_others() -> None:
    os.setsid()  # the kernel may give each session as much as another, whatever runs in it
    endless()


@contextmanager
def shared(run: Run) -> Iterator[None]:
    """Sixteen others want its core, all the time, and all workers have something to compute."""
    (run.folder / "busy").touch()
    cpu, worker = {min(os.sched_getaffinity(0))}, run.rank(2).workers()[0]
    for task in Path(f"/proc/{worker}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended
            os.sched_setaffinity(int(task.name), cpu)
    with ExitStack() as others:
        for _ in range(16):
            os.sched_setaffinity(others.enter_context(process(of_others)), cpu)
        yield


@contextmanager
def late(run: Run) -> Iterator[None]:
    """Its data come late."""
    (run.folder / f"late@{run.rank(2).name}").write_text("0.3")
    yield


SLOW: dict[str, tuple[Callable[[Run], AbstractContextManager[None]], str]] = {
    "a throttled core": (throttled, "a limit on its processor time holds its processes back for"),
    "a shared core": (shared, "it waits for a processor for"),
    "a slow loader": (late, "it waits for its data: 0."),
}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", SLOW)
def test_a_straggler_is_named_with_its_reason(what: str, folder: Path) -> None:
    if what == "a throttled core" and NO_GROUPS:
        pytest.skip("control groups for processors can be made as root only")
    slows, reason = SLOW[what]
    # A namespace has a /sys of its own, and in that no control groups: a container has them.
    kind = "process" if what == "a throttled core" else KIND
    run = Run(kind, folder, task={"epochs": 1000})
    try:
        run.pace(0.02)
        run.start()
        slow = run.rank(2)
        with slows(run):
            run.until(lambda _: told(run), "it is told of")
            first = told(run)[0]
            assert (first["rank"], first["member"]) == (2, slow.name)
            assert first["ratio"] > 1.3 and reason in first["reason"]
            assert [one.rank for one in run.look().stragglers] == [2]
    finally:
        run.close()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_one_that_stays_so_is_replaced_and_nothing_is_lost(
    folder: Path, undisturbed: Undisturbed
) -> None:
    run = Run(KIND, folder, settings={"replace_stragglers": 1.3}, task={"epochs": 60})
    try:
        run.pace(0.02)
        run.start()
        slow = run.rank(2)
        with often_stopped(run):
            run.until(lambda _: told(run), "it is told of")
            first = told(run)[0]
            assert (first["rank"], first["member"]) == (2, slow.name)
            assert "a signal stops its process for" in first["reason"]
            run.until(lambda _: told(run)[-1].get("then") == "replica", "it is replaced")
            run.until(lambda _: slow.agent and slow.agent.poll() is not None, "its agent ends")
        drains = [one for one in run.events if one["event"] == "drain"]
        assert [one["member"] for one in drains] == [slow.name]
        assert "times as slow as the others" in drains[0]["reason"]
        slow.start()
        run.until_world(*run.everybody)
        assert run.history.stragglers == []
        run.finish()
        run.check(undisturbed)
    finally:
        run.close()
