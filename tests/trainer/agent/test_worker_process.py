"""A worker as its agent holds it: started, spoken to, killed, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.trainer.agent.held import Held
from tests.trainer.ranks import PATIENCE
from trainer.agent import worker_process
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol.messages import (
    Abort,
    Event,
    Exit,
    Failed,
    Form,
    Pause,
    Progress,
    Ready,
    Received,
    Save,
    Started,
    Stopped,
    decode,
)
from trainer.protocol.session import Program, Session


def run(test: Coroutine[Any, Any, None]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(test)
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"


def test_orders_go_down_and_messages_come_up(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        assert not held.worker.alive
        await held.start(echo)
        assert await held.receive() == Ready()
        assert held.worker.idle
        form = Form(3, {"A": "é"}, ("10.0.0.1",))
        held.worker.join(form, rank=2)
        assert not held.worker.idle
        heard = await held.receive()
        assert isinstance(heard, Event)
        assert decode(json.dumps(heard.fields).encode()) == form
        await held.worker.close(PATIENCE)
        assert not held.worker.alive

    run(body())


def test_its_end_is_told_after_its_last_message(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start({**echo, "EXIT": "5"})
        held.worker.send(Pause(1))
        held.worker.send(Exit())
        assert await held.ended() == 5
        assert held.messages.qsize() == 2
        held.worker.send(Pause(2))  # too late
        held.worker.kill()
        await held.worker.close(PATIENCE)

    run(body())


def test_a_killed_one_is_told_too(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start(echo)
        await held.receive()
        held.worker.kill()
        assert await held.ended() == -9
        await held.worker.close(PATIENCE)

    run(body())


def test_signs_of_life_are_noted_and_not_passed_on(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start(echo)
        await held.receive()
        before = held.worker.heard
        held.worker.send(Save())
        held.worker.send(Pause(1))
        assert isinstance(await held.receive(), Event)
        assert held.worker.waiting
        assert held.worker.heard > before
        await held.worker.close(PATIENCE)

    asyncio.run(body())


def test_what_a_newer_one_says_is_passed_over(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start({**echo, "NOISE": '{"op": "sing", "song": "la"}'})
        await held.receive()
        held.worker.send(Abort(1))
        held.worker.send(Pause(1))
        assert isinstance(await held.receive(), Event)
        await held.worker.close(PATIENCE)

    run(body())


@pytest.mark.parametrize("noise", ["noise", "[]", '{"op": "progress", "step": "far"}'])
def test_one_that_makes_no_sense_is_killed(echo: dict[str, str], noise: str) -> None:
    async def body() -> None:
        held = Held()
        await held.start({**echo, "NOISE": noise})
        held.worker.send(Abort(1))
        assert await held.ended() == -signal.SIGKILL
        await held.worker.close(PATIENCE)

    run(body())


def test_how_far_it_is_is_known_from_what_it_says() -> None:
    worker = WorkerProcess(slot=0, serial=1)
    worker.join(Form(3, {}, ()), rank=2)
    assert (worker.generation, worker.rank) == (3, 2)
    for message in (
        Ready(),
        Received(3, bytes=100),
        Started(3, 2, step=4, idle=None, bytes=100, seconds=0.1),
        Progress(3, step=6, saving=1.5),
    ):
        worker._note(message)
    assert (worker.ready, worker.received, worker.step, worker.saving) == (True, 100, 6, 1.5)
    worker._note(Stopped(3, step=7, clean=True, failed=""))
    assert (worker.generation, worker.step) == (0, 7)


def test_one_that_a_signal_has_stopped_is_seen_to_be(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        assert not held.worker.frozen
        await held.start(echo)
        await held.receive()
        pid = held.worker.pid
        assert pid and not held.worker.frozen
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert held.worker.frozen
        held.worker.kill()
        assert await held.ended() == -signal.SIGKILL
        assert not held.worker.frozen
        await held.worker.close(PATIENCE)

    asyncio.run(body())


def test_one_that_does_not_exit_is_killed_and_reaped(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start(echo)
        await held.receive()
        held.worker.send = lambda order: None  # type: ignore[method-assign]
        await held.worker.close(grace=0.01)
        assert not held.worker.alive

    run(body())


def test_one_that_still_imports_is_not_waited_for(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start(echo)
        assert not held.worker.ready
        await held.worker.close(PATIENCE)
        assert not held.worker.alive

    run(body())


def test_one_that_never_started_can_be_closed() -> None:
    async def body() -> None:
        worker = Held().worker
        await worker.close(PATIENCE)
        assert not worker.alive

    run(body())


def test_a_real_worker_tells_why_it_failed() -> None:
    async def body() -> None:
        held = Held()
        session = Session(program=Program(task="no_such_module:Task"))
        await held.start({**os.environ, **session.to_env()})
        message = await held.receive()
        assert isinstance(message, Failed)
        assert "no_such_module" in message.reason
        assert await held.ended() == 1
        await held.worker.close(PATIENCE)

    run(body())


def test_one_that_has_closed_its_line_is_killed(
    echo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        held = Held()
        await held.start({**echo, "FIRST": "os.closerange(3, 99); time.sleep(600)"})
        assert await held.ended() == -signal.SIGKILL
        await held.worker.close(PATIENCE)

    monkeypatch.setattr(worker_process, "MUTE_GRACE", 0.1)
    run(body())
