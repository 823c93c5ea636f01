"""An agent sees what a process does, whatever that is, and never harms one that does not answer."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from trainer.agent import stacks
from trainer.agent.slots import Slot
from trainer.agent.stacks import TEXT_LIMIT, Look, call_in_words, dump, look_at, stacks_of
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol.stacks import SIGNAL, Frame, offer

LIMIT = 600.0  # seconds; only a test that fails waits so long


def deadlock() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def endless() -> None:
    while True:
        pass


def holds_the_gil() -> None:
    while True:  # a handler's signal ends it
        ctypes.PyDLL(None).sleep(600)


def sleeps() -> None:
    time.sleep(600)


def reads(pipe: int) -> None:
    os.read(pipe, 1)


@contextmanager
def process(does: Callable[..., None], *args: Any, offers: bool = True) -> Iterator[int]:
    """A child that offers its stacks, and then does something for ever."""
    here, there = os.pipe()
    if not (pid := os.fork()):
        try:
            if offers:
                offer()
            os.write(there, b".")
            does(*args)
        finally:
            os._exit(1)
    try:
        os.read(here, 1)
        yield pid
    finally:
        os.close(here)
        os.close(there)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def until(pid: int, function: str) -> Look:
    """What the process does once it is in ``function``, and waits or not as it will."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        look = look_at(pid)
        if look.threads and any(one.function == function for one in look.threads[0]):
            return look
    raise AssertionError(f"{pid} never comes to {function}")


def test_a_deadlock_waits_for_a_lock() -> None:
    with process(deadlock) as pid:
        look = until(pid, "deadlock")
        frame = look.threads[0][0]
        assert (frame.file, frame.function) == (__file__, "deadlock")
        assert look.waits_for == "a lock or another thread"
        assert look.busy < 0.5


def test_a_loop_without_end_computes_however_little_of_a_processor_it_gets() -> None:
    with process(endless) as pid:
        os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
        with process(endless) as other:  # for the same processor
            os.sched_setaffinity(other, {min(os.sched_getaffinity(0))})
            look = until(pid, "endless")
            assert look.busy > 0.5
            assert look.waits_for == ""


def test_a_call_that_holds_the_gil_is_seen() -> None:
    with process(holds_the_gil) as pid:
        look = until(pid, "holds_the_gil")
        assert look.waits_for == "time to pass"


def test_what_a_thread_waits_for_is_told_apart() -> None:
    here, there = os.pipe()
    with process(sleeps) as sleeping, process(reads, here) as reading:
        assert until(sleeping, "sleeps").waits_for == "time to pass"
        assert until(reading, "reads").waits_for == "a file, a pipe or a socket"
    os.close(here)
    os.close(there)


def test_the_first_thread_comes_first() -> None:
    def main() -> None:
        threading.Thread(target=sleeps, daemon=True).start()
        deadlock()

    with process(main) as pid:
        look = until(pid, "deadlock")
        deadline = time.monotonic() + LIMIT
        while len(look.threads) < 2 and time.monotonic() < deadline:
            look = look_at(pid)
        assert [one.function for one in look.threads[0]][:2] == ["deadlock", "main"]
        assert any(one.function == "sleeps" for one in look.threads[1])


def test_every_answer_is_of_now() -> None:
    with process(deadlock) as pid:
        until(pid, "deadlock")
        for _ in range(3):
            (first, *rest) = dump(pid)
            assert first[0].function == "deadlock" and not rest


def test_a_process_that_offers_nothing_lives_on() -> None:
    with process(sleeps, offers=False) as pid:
        assert look_at(pid).threads == ()
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_a_child_of_one_that_offers_does_not_speak_for_it() -> None:
    """The signal has its handler in the child, too, and the answer would be in another's file."""
    here, there = os.pipe()

    def parent() -> None:
        if not os.fork():
            sleeps()
        os.write(there, str(os.getpid()).encode())
        sleeps()

    with process(parent) as pid:
        os.read(here, 100)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        child = int(children[0])
        try:
            assert dump(child) == []
            assert dump(pid) != []
        finally:
            os.kill(child, signal.SIGKILL)
    os.close(here)
    os.close(there)


def test_who_takes_the_signal_for_something_else_is_asked_still_and_lives() -> None:
    def takes_it_away() -> None:
        signal.signal(SIGNAL, signal.SIG_DFL)
        sleeps()

    with process(takes_it_away) as pid:
        deadline = time.monotonic() + LIMIT
        while stacks._listens(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert dump(pid) == []
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_one_that_is_stopped_does_not_hold_its_agent_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "ANSWER", 0.1)
    with process(sleeps) as pid:
        until(pid, "sleeps")
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        assert look_at(pid).threads == ()
        os.kill(pid, signal.SIGCONT)
        assert until(pid, "sleeps").threads != ()


def test_a_process_that_is_gone_has_no_stack() -> None:
    with process(sleeps) as pid:
        pass
    assert look_at(pid) == Look()


def test_no_text_is_longer_than_its_limit() -> None:
    deep = tuple(Frame(f"/{'x' * 400}.py", line, "f") for line in range(100))
    text = Look((deep, deep)).text
    assert TEXT_LIMIT / 2 < len(text) <= TEXT_LIMIT
    assert text.endswith("in f"), "it ends with a whole line"


def test_what_the_kernel_calls_it_is_known_for_both_kinds_of_processors() -> None:
    assert call_in_words(202, "x86_64") == call_in_words(98, "aarch64")
    assert call_in_words(0, "x86_64") == call_in_words(63, "aarch64")
    assert call_in_words(9999, "x86_64") == ""
    assert call_in_words(202, "riscv64") == ""


class Worker(WorkerProcess):
    """A worker whose process is any."""

    def __init__(self, pid: int | None, rank: int, generation: int = 3) -> None:
        super().__init__(slot=rank, serial=1)
        self._pid, self.rank, self.generation = pid, rank, generation

    @property
    def computes(self) -> int | None:
        return self._pid

    @property
    def frozen(self) -> bool:
        return False


def test_an_agent_answers_for_all_of_its_slots() -> None:
    with process(deadlock) as pid:
        until(pid, "deadlock")
        workers = [Worker(pid, 0), Worker(None, 1), Worker(pid, 2, generation=2), Worker(pid, 3)]
        slots = [Slot(worker.slot, worker) for worker in workers]
        told = stacks_of(5, 3, slots, ended={3})
    assert (told.number, told.generation) == (5, 3)
    first, gone, elsewhere, ended = told.stacks
    assert "in deadlock" in first.text and not first.missing
    assert gone.missing == "its process has ended" and not gone.text
    assert elsewhere.missing == "it is not in this world any more"
    assert ended.ended and not ended.text and not ended.missing
