"""What the end of a worker's process says."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.starvation import starvation, with_starvation
from tests.trainer.agent.held import Held
from tests.trainer.ranks import PATIENCE
from trainer.agent.death import MemoryKills, describe, kind_of, never_ready
from trainer.protocol.messages import Form, Ready


@pytest.mark.parametrize(
    "code, told, starved, text",
    [
        (1, True, False, "a worker exited with code 1"),
        (
            0,
            False,
            False,
            "a worker ended itself with exit code 0, without an error: as os._exit(0) does, or "
            "native code",
        ),
        (-9, False, False, "a worker was killed by SIGKILL"),
        (-9, False, True, "a worker was killed by SIGKILL: the machine was out of memory"),
        (-6, False, True, "a worker was killed by SIGABRT"),
        (-40, False, False, "a worker was killed by SIGRTMIN+6"),
    ],
)
def test_an_exit_code_in_words(code: int, told: bool, starved: bool, text: str) -> None:
    assert describe(code, told=told, out_of_memory=starved) == text


@pytest.mark.parametrize(
    "code, expected, starved, kind",
    [
        (-signal.SIGSEGV, False, False, "crash"),
        (-signal.SIGABRT, False, False, "crash"),
        (-signal.SIGFPE, False, True, "crash"),
        (3, False, False, "crash"),  # os._exit, or a library's exit()
        (0, False, False, "crash"),  # nobody told it to
        (-signal.SIGBUS, False, False, "machine"),
        (-signal.SIGKILL, False, True, "unsure"),  # its program's doing, or a neighbour's
        (-signal.SIGKILL, False, False, "killed"),  # somebody's, as a rule
        (-signal.SIGKILL, True, False, ""),
        (-signal.SIGILL, False, False, "crash"),
        (-40, False, False, "crash"),  # Python has no name for it
        (-signal.SIGKILL, True, True, ""),  # its agent's
        (1, True, False, ""),  # it has said why
        (1, False, False, "crash"),
        (0, True, False, ""),
        (75, False, False, "again"),  # another process must take its place
        (75, True, False, ""),
    ],
)
def test_whose_fault_an_end_may_be(code: int, expected: bool, starved: bool, kind: str) -> None:
    assert kind_of(code, expected=expected, out_of_memory=starved) == kind


def test_the_kernels_kills_for_want_of_memory_are_told_from_others(tmp_path: Path) -> None:
    events, missing = tmp_path / "memory.events", tmp_path / "vmstat"
    events.write_text("low 0\noom 3\noom_kill 2\n")
    kills = MemoryKills([events, missing])
    assert not kills.rose()
    events.write_text("low 0\noom 4\noom_kill 3\n")
    assert kills.rose()
    assert not kills.rose(), "it was asked about that one before"


@with_starvation
def test_a_worker_that_the_kernel_has_killed_for_want_of_memory(echo: dict[str, str]) -> None:
    async def body() -> None:
        held, kills = Held(), MemoryKills()
        with starvation() as group:
            await held.start(echo)
            assert await held.receive() == Ready()
            assert held.worker.pid is not None
            group.take(held.worker.pid)
            held.worker.send(Form(1, {"KEY": "x" * 2**22}, ()))  # it has no room for that
            assert await held.ended() == -signal.SIGKILL
            await held.worker.close(PATIENCE)
        assert kills.rose(), "as the kernel counts"

    asyncio.run(body())


@pytest.mark.parametrize(
    "code, first, id",
    [
        (0, "the program ended its own process before it trained, 5 times in a row", "[SW5023]"),
        (-11, "5 workers in a row died before they were ready", "[SW5027]"),
    ],
)
def test_workers_that_never_come_to_be_ready_in_words(code: int, first: str, id: str) -> None:
    said = never_ready(5, code, describe(code))
    assert said.startswith(f"{first}: {describe(code)}; what it had printed") and said.endswith(id)
