"""A worker process as its agent holds it, for tests: its messages, and its end."""

from __future__ import annotations

import asyncio

from tests.trainer.ranks import PATIENCE
from trainer.agent.nursery import Nursery
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol.messages import Message


class Held:
    """A worker process, its messages and its end."""

    def __init__(self) -> None:
        self.worker = WorkerProcess(slot=1, serial=7)
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self, env: dict[str, str], nursery: Nursery | None = None) -> None:
        async def on_message(worker: WorkerProcess, message: Message) -> None:
            self.messages.put_nowait(message)

        async def on_exit(worker: WorkerProcess, code: int) -> None:
            self.exit.set_result(code)

        await self.worker.start(env, on_message, on_exit, nursery)

    async def receive(self) -> Message:
        return await asyncio.wait_for(self.messages.get(), PATIENCE)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.exit, PATIENCE)
