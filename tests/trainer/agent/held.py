"""A worker process as its agent holds it, for tests: its messages, and its end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from tests.trainer.ranks import PATIENCE, Process
from trainer.agent.nursery import Nursery
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol.messages import Message
from trainer.worker import nursery as worker_nursery


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


def serve(line: Connection) -> None:
    """What `python -m trainer.worker` does, in a fork of the tests' server."""
    from trainer.worker.worker import main

    # As a nursery that an agent starts: what is forked of it may have loaders.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    worker_nursery.serve(socket.socket(fileno=os.dup(line.fileno())))
    os._exit(main())


@contextmanager
def given() -> Iterator[tuple[socket.socket, Process]]:
    """A nursery that has imported everything already."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = Process(serve, connection := Connection(theirs.detach()))
    connection.close()
    try:
        yield ours, process
    finally:
        ours.close()
        process.close()
