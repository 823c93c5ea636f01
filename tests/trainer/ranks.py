"""Real Horovod processes on loopback, for tests.

They are forked from a server that has imported everything once, so each starts in a
moment; the worlds they join are served by trainer.agent.rendezvous in this process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import multiprocessing
import os
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from trainer.agent.environment import horovod_environment
from trainer.agent.rendezvous import Rendezvous
from trainer.protocol.channel import AgentChannel
from trainer.protocol.mesh import Mesh
from trainer.protocol.messages import (
    Alive,
    Exit,
    Failed,
    Form,
    Message,
    Started,
    ToWorker,
    decode,
    encode,
)
from trainer.protocol.world import MemberId, World, arrange

PATIENCE = 600.0  # seconds; only a test that fails waits so long
GLOO_TIMEOUT = 30.0  # seconds; gloo's own default
_Kind = TypeVar("_Kind", bound=Message)

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.trainer.preloaded"])
_forks: Any = FORKS


def world_of(*slots: int, generation: int = 1) -> World:
    """A world of members that have so many workers each."""
    members = [(MemberId(f"workerpool1-{i}", "0"), count) for i, count in enumerate(slots)]
    return arrange(generation, members)


def gloo_address(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bytes:
    """One address as gloo gives it: a sockaddr_storage, and a sequence number of -1."""
    if ip.version == 4:
        head = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + ip.packed
    else:
        head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + ip.packed
    return head.ljust(128, b"\0") + b"\xff" * 8


class Meeting:
    """The rendezvous of one world, one server per member, in a thread of their own.

    Attributes:
        environments: of every rank.
        rows: the (scope, size, rank) of all that went from one member to the others.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.environments: list[dict[str, str]] = []
        self.rows: list[tuple[str, int, int]] = []
        self._meshes: dict[str, Mesh] = {}
        self._owners: dict[tuple[str, int], Rendezvous] = {}
        self._somebody_came = threading.Event()
        self._servers: dict[MemberId, Rendezvous] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rendezvous")

    def __enter__(self) -> Meeting:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def until_somebody_came(self) -> None:
        """Waits until a rank is in the middle of joining."""
        assert self._somebody_came.wait(PATIENCE)

    def break_off(self) -> None:
        """Lets those who wait for others fail."""
        for server in self._servers.values():
            self._loop.call_soon_threadsafe(server.break_off)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _start(self) -> None:
        for member in self.world.members:
            self._servers[member] = Rendezvous(self.world, member, self._collector(member))
            await self._servers[member].start()
        for place in self.world.places:
            env = horovod_environment(
                place,
                interface="lo",
                rendezvous_port=self._servers[place.member].port,
                gloo_timeout=GLOO_TIMEOUT,
            )
            self.environments.append(env)

    async def _close(self) -> None:
        for server in self._servers.values():
            await server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _collector(self, member: MemberId) -> Callable[[str, int, int, bytes], None]:
        """The coordinator's part: rows come from all members, columns go to all."""

        def collect(scope: str, size: int, rank: int, row: bytes) -> None:
            self.rows.append((scope, size, rank))
            self._owners[scope, rank] = self._servers[member]
            mesh = self._meshes.setdefault(scope, Mesh(size))
            mesh.add(rank, row)
            if mesh.complete:
                for other, column in enumerate(mesh.columns()):
                    self._owners[scope, other].take(scope, other, column)
            self._somebody_came.set()

        return collect


class Process:
    """A forked process that runs ``function(*args)`` and tells what it returned.

    Args:
        function, args: what it runs.
        alone: whether it forks no process itself; one that does must end its own.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, alone: bool = True) -> None:
        self._results, results = _forks.Pipe(duplex=False)
        self.process = _forks.Process(
            target=_run, args=(results, function, args), daemon=alone, name="rank"
        )
        self.process.start()
        results.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        pid: int | None = self.process.pid
        assert pid is not None
        return pid

    def result(self, patience: float = PATIENCE) -> Any:
        """Waits so many seconds for what the function returned; fails with its traceback if it
        raised."""
        assert self._results.poll(patience), "the process hangs"
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


def forking(function: Callable[..., Any], *args: Any) -> Any:
    """Returns what ``function`` returns in a process of which its own ranks are forked.

    So what it imports, if that takes long and few tests need it, is imported once.
    """
    process = Process(_forking, function, args, alone=False)
    try:
        return process.result()
    finally:
        process.close()


def _forking(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    global _forks
    _forks = multiprocessing.get_context("fork")
    return function(*args)


def in_world(
    slots: Sequence[int],
    function: Callable[..., Any],
    *args: Any,
    lost: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> list[Any]:
    """Runs ``function`` on every rank of a world, between ``hvd.init`` and ``hvd.shutdown``.

    Returns what each rank returned, None for those in ``lost``, which kill themselves. Their
    environment has ``variables`` in place of what an agent would have set.
    """
    with Meeting(world_of(*slots)) as meeting:
        processes = [
            Process(_member, {**env, **(variables or {})}, function, args)
            for env in meeting.environments
        ]
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
        args: what it is called with.
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        worker_reads, self._orders = _forks.Pipe(duplex=False)
        messages, worker_writes = _forks.Pipe(duplex=False)
        self.process = Process(_with_channel, worker_reads, worker_writes, function, tuple(args))
        worker_reads.close()
        worker_writes.close()
        self._messages = os.fdopen(os.dup(messages.fileno()), "rb")
        messages.close()

    def send(self, order: ToWorker) -> None:
        """An order of the agent."""
        os.write(self._orders.fileno(), encode(order))

    def leave(self) -> None:
        """Orders it to exit when its world is over; it may have ended by itself by now."""
        with suppress(BrokenPipeError):
            self.send(Exit())

    def receive(self) -> Message:
        """The next message; signs of life come at any time, and are dropped."""
        while True:
            line = self._messages.readline()
            assert line, f"the worker is gone: {self.process.result()}"
            message = decode(line)
            assert message is not None, line
            if not isinstance(message, Alive):
                return message

    def until(self, kind: type[_Kind]) -> _Kind:
        """The next message of this kind; others are dropped."""
        while not isinstance(message := self.receive(), kind):
            assert not isinstance(message, Failed), message.reason
        return message

    def exit(self) -> Any:
        """Orders the worker to exit. Returns what its function returned."""
        self.send(Exit())
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
def workers(function: Callable[..., Any], *args: Sequence[Any]) -> Iterator[list[Worker]]:
    """One worker for each of ``args``; nothing of them is left afterwards."""
    started: list[Worker] = []
    try:
        for one in args:
            started.append(Worker(function, one))
        yield started
    finally:
        for worker in started:
            worker.close()


def form(meeting: Meeting, members: Sequence[Worker]) -> None:
    """Orders workers into a world, in order of rank."""
    generation = meeting.world.generation
    for worker, env in zip(members, meeting.environments, strict=True):
        worker.send(Form(generation, env, ("127.0.0.1",)))


@contextmanager
def formed(generation: int, members: Sequence[Worker]) -> Iterator[list[Started]]:
    """A world of these workers, each a member of its own. Yields what each started with."""
    with Meeting(world_of(*[1] * len(members), generation=generation)) as meeting:
        form(meeting, members)
        yield [member.until(Started) for member in members]
