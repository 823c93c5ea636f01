"""What holds a worker's process back is found on its machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.trainer.agent.test_stacks import endless, process
from trainer.agent import strain
from trainer.agent.strain import Reading, read, watch, why

BEFORE = Reading(100.0, others={7: ("stress", 5.0), 8: ("idle", 0.0)})
CPU = next(one for one in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")) if one.is_dir())


def after(**changed: object) -> Reading:
    return Reading(110.0, **changed)  # type: ignore[arg-type]


def test_nothing_holds_back_who_runs() -> None:
    assert why(BEFORE, after(ran=10.0, ticks=20.0)) == ""
    assert why(BEFORE, after(ran=9.0, queued=0.5, throttled=0.5, ticks=20.0, memory=0.5)) == ""


def test_each_cause_is_told_with_its_figure() -> None:
    told = why(BEFORE, after(throttled=4.8))
    assert told == "a limit on its processor time holds its processes back for 48% of the time"
    assert why(BEFORE, after(stolen=6.0, ticks=20.0)) == (
        "its host takes 30% of its machine's processor time"
    )
    assert why(BEFORE, after(memory=2.0)) == "its machine waits for memory for 20% of the time"
    assert why(BEFORE, after(), stopped=0.5) == "a signal stops its process for 50% of the time"


def test_another_process_is_named_that_takes_the_processor() -> None:
    others = {7: ("stress", 14.8), 8: ("idle", 0.1), 9: ("new", 99.0)}
    assert why(BEFORE, after(queued=4.5, others=others)) == (
        "it waits for a processor for 45% of the time, while stress (7) takes 98% of one"
    )
    assert why(BEFORE, after(queued=4.5)) == "it waits for a processor for 45% of the time"


def test_who_is_throttled_waits_for_a_processor_for_that_reason() -> None:
    told = why(BEFORE, after(queued=4.5, throttled=4.8))
    assert "waits for a processor" not in told
    told = why(BEFORE, after(throttled=4.8, memory=2.0))
    assert told.count("; ") == 1, "there may be several causes"


def test_a_process_that_signals_stop_again_and_again_is_seen_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strain, "WATCHED", 0.5)
    with process(endless) as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        assert watch(pid, {os.getpid()}).startswith("a signal stops its process for 100%")
        os.kill(pid, signal.SIGCONT)


def test_who_shares_a_processor_waits_for_it_and_learns_with_whom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strain, "WATCHED", 0.5)
    with process(endless) as pid, process(endless) as rival:
        for one in (pid, rival):
            os.sched_setaffinity(one, {min(os.sched_getaffinity(0))})
        deadline = time.monotonic() + 600.0
        told = ""
        while f"({rival})" not in told and time.monotonic() < deadline:
            told = watch(pid, {pid})  # on a busy machine others may take more
            if told.startswith("it waits for a processor for "):
                break
        assert told.startswith("it waits for a processor for ")
        readings = read(rival, {pid}, 0.0), read(rival, {rival}, 0.0)
        assert rival in readings[0].others and rival not in readings[1].others


@contextmanager
def limited(pid: int, percent: int = 10, kill: bool = True) -> Iterator[Path]:
    """The process's group has so much of a processor. In the end it is killed, or free again."""
    group = CPU / f"swell-test-{os.getpid()}"
    group.mkdir()
    try:
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text(f"{percent * 1000}")
        else:
            (group / "cpu.max").write_text(f"{percent * 1000} 100000")
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        if kill:
            os.kill(pid, signal.SIGKILL)
        while left := (group / "cgroup.procs").read_text().split():
            for one in left:  # what the process has started is here, too
                with suppress(OSError):
                    (CPU / "cgroup.procs").write_text(one)
            time.sleep(0.01)
        group.rmdir()


NO_GROUPS = not os.access(CPU, os.W_OK) or not list(CPU.glob("cpu.*"))


@pytest.mark.skipif(
    NO_GROUPS,
    reason="control groups for processors can be made as root only",
)
def test_a_throttled_core_is_seen_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strain, "WATCHED", 1.0)
    with process(endless) as pid, limited(pid):
        told = watch(pid, {os.getpid()})
        assert told.startswith("a limit on its processor time holds its processes back for ")


def test_a_process_that_is_gone_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strain, "WATCHED", 0.0)
    with process(endless) as pid:
        pass
    first = read(pid, set(), 0.0)
    assert (first.ran, first.queued, first.throttled) == (0.0, 0.0, 0.0)
