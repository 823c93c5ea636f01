"""A small world of processes on this machine, and what they return."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from trainer.agent.environment import horovod_environment
from trainer.agent.rendezvous import Rendezvous
from trainer.protocol.mesh import Mesh
from trainer.protocol.world import MemberId, arrange
from trainer.worker import nursery

GLOO_TIMEOUT = 30.0  # seconds

_forks = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Lets processes begin with all that they need: once, by the program, before the first call."""
    modules = [*nursery.MODULES, "trainer.check.rank", "trainer.check.examination"]
    _forks.set_forkserver_preload(modules)


class Failed(Exception):
    """A process raised something, or died; the text is its traceback."""


def call(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """Calls each (function, arguments) in a process of its own, all at once.

    Returns what they return, in order. Raises Failed with the first that raises; nothing is left
    of the others then.
    """
    readers: dict[Connection, int] = {}
    processes = []
    answers: list[Any] = [None] * len(calls)
    for number, (function, args) in enumerate(calls):
        reader, writer = _forks.Pipe(duplex=False)
        process = _forks.Process(target=_serve, args=(writer, function, args), daemon=True)
        process.start()
        writer.close()
        readers[reader] = number
        processes.append(process)
    try:
        while readers:
            for ready in wait(list(readers)):
                assert isinstance(ready, Connection)
                number = readers.pop(ready)
                try:
                    outcome, answers[number] = ready.recv()
                except EOFError:
                    processes[number].join()
                    raise Failed(f"the process ended with {processes[number].exitcode}") from None
                if outcome != "returned":
                    raise Failed(answers[number])
    finally:
        for process in processes:
            process.kill()
            process.join()
    return answers


@contextmanager
def formed(size: int) -> Iterator[list[dict[str, str]]]:
    """The rendezvous of a world. Yields what each rank's environment has."""
    member = MemberId("check", "0")
    world = arrange(1, [(member, size)])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rendezvous", daemon=True)
    thread.start()
    meshes: dict[str, Mesh] = {}

    def collect(scope: str, size: int, rank: int, row: bytes) -> None:
        mesh = meshes.setdefault(scope, Mesh(size))
        mesh.add(rank, row)
        if mesh.complete:
            for other, column in enumerate(mesh.columns()):
                server.take(scope, other, column)

    server = Rendezvous(world, member, collect)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        yield [
            horovod_environment(
                place, interface="lo", rendezvous_port=server.port, gloo_timeout=GLOO_TIMEOUT
            )
            for place in world.places_of(member)
        ]
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _serve(answers: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answers.send(("returned", function(*args)))
    except BaseException:
        answers.send(("raised", traceback.format_exc()))
