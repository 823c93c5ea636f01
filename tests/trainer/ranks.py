"""Real Horovod processes on loopback, for tests.

They are forked from a server that has imported everything once, so each starts in a
moment; the worlds they join are served by trainer.rendezvous in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from trainer.channel import AgentChannel
from trainer.rendezvous import Rendezvous, host_key
from trainer.world import MemberId, Place, World, arrange

PATIENCE = 60.0  # seconds; only a test that fails waits so long

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["trainer.loop", "trainer.coordinator", "pytest", "hypothesis", "sklearn.datasets"]
)


def world_of(*slots: int, generation: int = 1) -> World:
    """A world of members that have so many workers each."""
    members = [(MemberId(f"workerpool1-{i}", "0"), count) for i, count in enumerate(slots)]
    return arrange(generation, members)


def environment(place: Place, port: int) -> dict[str, str]:
    """What a worker is told of its place in the world."""
    return {
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank),
        "HOROVOD_CROSS_SIZE": str(place.cross_size),
        "HOROVOD_HOSTNAME": host_key(place.member),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": "lo",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_ELASTIC": "1",
    }


@contextmanager
def served(world: World) -> Iterator[list[dict[str, str]]]:
    """Serves a world's rendezvous, one per member. Yields the environment of every rank."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rendezvous")
    thread.start()
    servers: dict[MemberId, Rendezvous] = {}

    def spread(origin: MemberId) -> Callable[[str, str, bytes], None]:
        """The coordinator's part: a key of one member reaches all others."""

        def put(scope: str, key: str, value: bytes) -> None:
            for member, server in servers.items():
                if member != origin:
                    server.add(scope, key, value)

        return put

    async def start() -> None:
        for member in world.members:
            servers[member] = Rendezvous(world, member, spread(member))
            await servers[member].start()

    async def close() -> None:
        for server in servers.values():
            await server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE)
        yield [environment(place, servers[place.member].port) for place in world.places]
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Process:
    """A forked process that runs ``function(*args)`` and tells what it returned."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._results, results = _forks.Pipe(duplex=False)
        self.process = _forks.Process(
            target=_run, args=(results, function, args), daemon=True, name="rank"
        )
        self.process.start()
        results.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def result(self) -> Any:
        """Waits for what the function returned; fails with its traceback if it raised."""
        assert self._results.poll(PATIENCE), "the process hangs"
        try:
            outcome, value = self._results.recv()
        except EOFError:
            self.process.join()
            raise AssertionError(f"the process exited with {self.process.exitcode}") from None
        self.process.join()
        assert outcome == "returned", value
        return value

    def kill(self) -> None:
        """Kills it at once, and waits until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.join()

    def close(self) -> None:
        """Leaves nothing of it behind."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.process.close()
        self._results.close()


def _run(results: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        results.send(("returned", function(*args)))
    except BaseException:
        results.send(("raised", traceback.format_exc()))


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Returns what ``function`` returns in a process of its own."""
    process = Process(function, *args)
    try:
        return process.result()
    finally:
        process.close()


def in_world(
    slots: Sequence[int], function: Callable[..., Any], *args: Any, lost: Sequence[int] = ()
) -> list[Any]:
    """Runs ``function`` on every rank of a world, between ``hvd.init`` and ``hvd.shutdown``.

    Returns what each rank returned, None for those in ``lost``, which kill themselves.
    """
    with served(world_of(*slots)) as environments:
        processes = [Process(_member, env, function, args) for env in environments]
        try:
            return [
                None if rank in lost else process.result() for rank, process in enumerate(processes)
            ]
        finally:
            for process in processes:
                process.close()


def _member(env: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import horovod.torch as hvd

    os.environ.update(env)
    hvd.init()
    try:
        return function(*args)
    finally:
        hvd.shutdown()


class Worker:
    """A process with an agent's channel, and the agent's end of it.

    Args:
        function: called in the process as ``function(channel, *args)``.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        worker_reads, self._orders = _forks.Pipe(duplex=False)
        messages, worker_writes = _forks.Pipe(duplex=False)
        self.process = Process(_with_channel, worker_reads, worker_writes, function, args)
        worker_reads.close()
        worker_writes.close()
        self._messages = os.fdopen(os.dup(messages.fileno()), "rb")
        messages.close()

    def send(self, op: str, **fields: Any) -> None:
        """An order of the agent."""
        os.write(self._orders.fileno(), json.dumps({"op": op, **fields}).encode() + b"\n")

    def join(self, generation: int, env: dict[str, str]) -> None:
        """Orders the worker into a world."""
        self.send("form", generation=generation, env=env, addresses=["127.0.0.1"])

    def receive(self) -> dict[str, Any]:
        """The next message."""
        line = self._messages.readline()
        assert line, f"the worker is gone: {self.process.result()}"
        message: dict[str, Any] = json.loads(line)
        return message

    def until(self, op: str) -> dict[str, Any]:
        """The next message of this kind; others are dropped."""
        for _ in itertools.count():
            message = self.receive()
            if message["op"] == op:
                break
            assert message["op"] != "failed", message["reason"]
        return message

    def exit(self) -> Any:
        """Orders the worker to exit. Returns what its function returned."""
        self.send("exit")
        return self.process.result()

    def close(self) -> None:
        """Leaves nothing of it behind."""
        self.process.close()
        self._orders.close()
        self._messages.close()


def _with_channel(
    reads: Connection, writes: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    channel = AgentChannel(os.dup(reads.fileno()), os.dup(writes.fileno()))
    reads.close()
    writes.close()
    return function(channel, *args)


@contextmanager
def workers(count: int, function: Callable[..., Any], *args: Any) -> Iterator[list[Worker]]:
    """So many workers, of which nothing is left afterwards."""
    started: list[Worker] = []
    try:
        for _ in range(count):
            started.append(Worker(function, *args))
        yield started
    finally:
        for worker in started:
            worker.close()


def form(
    generation: int, members: Sequence[Worker], environments: Sequence[dict[str, str]]
) -> None:
    """Orders workers into a world, in order of rank."""
    for worker, env in zip(members, environments, strict=True):
        worker.join(generation, env)
