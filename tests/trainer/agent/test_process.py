"""A worker as its agent holds it: started, spoken to, killed, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import PATIENCE
from trainer.agent.process import Message, WorkerProcess, describe_exit
from trainer.protocol.session import Program, Session

# It stands in for trainer.worker, which is slow to start: it says what it was told.
ECHO = """
import json, os, sys
reads, writes = (int(fd) for fd in os.environ["SWELL_CONTROL"].split(","))
say = os.fdopen(writes, "w", buffering=1)
print(json.dumps({"op": "ready"}), file=say)
for line in os.fdopen(reads):
    order = json.loads(line)
    if order["op"] == "say":
        print(json.dumps(order["message"]), file=say)
        continue
    if order["op"] == "exit":
        sys.exit(order.get("code", 0))
    print(json.dumps({"op": "heard", **{"order": order}}), file=say)
"""


class Held:
    """A worker process, its messages and its end."""

    def __init__(self) -> None:
        self.worker = WorkerProcess(slot=1, serial=7)
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self, env: dict[str, str]) -> None:
        async def on_message(worker: WorkerProcess, message: Message) -> None:
            worker.ready |= message["op"] == "ready"
            self.messages.put_nowait(message)

        async def on_exit(worker: WorkerProcess, code: int) -> None:
            self.exit.set_result(code)

        await self.worker.start(env, on_message, on_exit)

    async def receive(self) -> Message:
        return await asyncio.wait_for(self.messages.get(), PATIENCE)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.exit, PATIENCE)


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a worker that is an echo."""
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "worker.py").write_text(ECHO)
    monkeypatch.chdir(tmp_path)  # before the real one, for python -m
    return {"PATH": os.environ["PATH"]}


def run(test: Coroutine[Any, Any, None]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(test)
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left open"


def test_orders_go_down_and_messages_come_up(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        assert not held.worker.alive
        await held.start(echo)
        assert await held.receive() == {"op": "ready"}
        assert held.worker.idle
        held.worker.send("form", generation=3, env={"A": "é"})
        order = {"op": "form", "generation": 3, "env": {"A": "é"}}
        assert await held.receive() == {"op": "heard", "order": order}
        await held.worker.close(PATIENCE)
        assert not held.worker.alive

    run(body())


def test_its_end_is_told_after_its_last_message(echo: dict[str, str]) -> None:
    async def body() -> None:
        held = Held()
        await held.start(echo)
        held.worker.send("sing")
        held.worker.send("exit", code=5)
        assert await held.ended() == 5
        assert held.messages.qsize() == 2
        held.worker.send("too late")
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
        held.worker.send("say", message={"op": "alive", "waiting": True})
        held.worker.send("last")
        assert (await held.receive())["order"]["op"] == "last"
        assert held.worker.waiting
        assert held.worker.heard > before
        await held.worker.close(PATIENCE)

    asyncio.run(body())


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
        held.worker.send = lambda op, **fields: None  # type: ignore[method-assign]
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
        assert message["op"] == "failed"
        assert "no_such_module" in message["reason"]
        assert await held.ended() == 1
        await held.worker.close(PATIENCE)

    run(body())


@pytest.mark.parametrize(
    "code, text",
    [
        (1, "a worker exited with code 1"),
        (0, "a worker exited with code 0"),
        (-9, "a worker was killed by SIGKILL"),
        (-6, "a worker was killed by SIGABRT"),
    ],
)
def test_an_exit_code_in_words(code: int, text: str) -> None:
    assert describe_exit(code) == text
