"""A worker that is slower than the others is found in a real world, named with what slows it, and
replaced when that is asked for.

What slows it is what slows machines: a limit on its processor time, signals that stop it, data that
come late. Reports are of ten seconds of training each, so this takes minutes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from launcher.emulator.vms import netns
from tests.chaos.run import Run, Undisturbed
from trainer.rundir.events import Event

KIND = "process" if netns.missing() else "netns"
PACE = 0.2  # seconds of a step; a tenth of them is noise


def told(run: Run) -> list[Event]:
    run.look()
    return [one for one in run.events if one["event"] == "straggler"]


@contextmanager
def often_stopped(pid: Callable[[], int]) -> Iterator[None]:
    """Signals let the process run for a third of the time."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            for number, seconds in ((signal.SIGSTOP, 0.2), (signal.SIGCONT, 0.1)):
                with suppress(ProcessLookupError, IndexError):
                    os.kill(pid(), number)
                over.wait(seconds)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(ProcessLookupError, IndexError):
            os.kill(pid(), signal.SIGCONT)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_straggler_is_named_with_its_reason_and_replaced(
    folder: Path, undisturbed: Undisturbed
) -> None:
    run = Run(KIND, folder, settings={"replace_stragglers": 1.3}, task={"epochs": 60})
    try:
        run.pace(0.02)
        run.start()
        slow = run.rank(2)
        worker = slow.workers()[0]
        with often_stopped(lambda: worker):
            run.until(lambda _: told(run), "it is told of")
            first = told(run)[0]
            assert (first["rank"], first["member"]) == (2, slow.name)
            assert first["ratio"] > 1.3
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
