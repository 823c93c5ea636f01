"""Simulated agents, and a real coordinator in a process of its own for them to talk to.

A simulated agent is a task with a real gRPC stream over a connection of its own. It has no
workers: it says at once what an agent says when its workers have done what was ordered.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import grpc

from trainer.agent.rendezvous import Rendezvous
from trainer.coordinator.coordinator import lead
from trainer.coordinator.limits import Limits
from trainer.coordinator.seat import Seat
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import Authority
from trainer.protocol.credentials import Credentials, channel_options
from trainer.protocol.lease import newest_claim
from trainer.protocol.wire import MESSAGE_LIMIT, METHOD, SERVICE, world_from_message
from trainer.protocol.world import MemberId, World
from trainer.rundir.attempts import record_name
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import PROTOCOL

T = TypeVar("T")

forks = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Usage:
    """What a process has used so far.

    Attributes:
        seconds: of CPU.
        memory: bytes that it holds at the moment.
    """

    seconds: float
    memory: int


def usage() -> Usage:
    """What this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return Usage(used.ru_utime + used.ru_stime, resident * resource.getpagesize())


_loop = asyncio.new_event_loop()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like ``asyncio.run``, but always in one loop: gRPC stays with the first that it meets."""
    return _loop.run_until_complete(work)


class CoordinatorProcess:
    """A real coordinator, with a run directory on disk, in a process of its own.

    Args:
        folder: where its run directory goes.
        limits: its limits.
        workers: the slots that its run was asked for.
        jobs: how many CustomJobs its run has; each has a record, and a certificate.

    Attributes:
        target: where it listens.
        tokens: the secret of each job.
        token: that of the first one, its own.
    """

    def __init__(self, folder: Path, limits: Limits, workers: int, jobs: int = 1) -> None:
        authority = Authority.new()
        self.tokens = [authority.issue(number) for number in range(1, jobs + 1)]
        self.token = self.tokens[0]
        for number in range(1, jobs + 1):
            RunDirectory(str(folder)).create_json(record_name(number), {"state": "RUNNING"})
        self._line, theirs = forks.Pipe()
        self._process = forks.Process(
            target=_coordinate, args=(theirs, folder, limits, workers, self.token), daemon=True
        )
        self._process.start()
        theirs.close()
        self.target: str = self._line.recv()

    def usage(self) -> Usage:
        """What it has used so far."""
        self._line.send("usage")
        used: Usage = self._line.recv()
        return used

    def close(self) -> None:
        """Stops it."""
        self._line.send("stop")
        self._process.join(20)
        self._process.kill()
        self._process.join()


def _coordinate(line: Connection, folder: Path, limits: Limits, workers: int, token: str) -> None:
    asyncio.run(_lead(line, RunDirectory(str(folder)), limits, workers, token))


async def _lead(
    line: Connection, run_dir: RunDirectory, limits: Limits, workers: int, token: str
) -> None:
    leader, credentials = MemberId("leader", "0"), Credentials.parse(token)
    seat = Seat(run_dir, credentials, leader, "127.0.0.1", workers, limits)
    coordinator = await lead(seat, term=1)
    assert coordinator is not None
    claim = newest_claim(run_dir)
    assert claim is not None
    line.send(claim.target)
    while await asyncio.to_thread(line.recv) == "usage":
        line.send(usage())
    await coordinator.stop()


class SimulatedAgent:
    """One agent; ``async with`` it to connect.

    Args:
        target: where to connect to.
        token: the secret of its job.
        name: of its replica.
        slots: how many workers it has.
        formed: called when it is to form a world.
        aborted: called when that world was broken off.
        columns: called with addresses that came for its workers.
    """

    def __init__(
        self,
        target: str,
        token: str,
        name: str,
        slots: int,
        formed: Callable[[SimulatedAgent, pb.Form], Awaitable[None]],
        aborted: Callable[[SimulatedAgent], Awaitable[None]],
        columns: Callable[[pb.Columns], None] = lambda message: None,
    ) -> None:
        self.member = MemberId(name, "0")
        self.slots = slots
        self.generation = 0
        self.step = 0
        self._target = target
        self._credentials = Credentials.parse(token)
        self._formed = formed
        self._aborted = aborted
        self._columns = columns
        self._outbox: asyncio.Queue[pb.FromAgent] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SimulatedAgent:
        self._task = asyncio.create_task(self._live())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.vanish()

    async def vanish(self) -> None:
        """Its connection breaks."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, **body: Any) -> None:
        """Sends a message."""
        self._outbox.put_nowait(pb.FromAgent(**body))

    def started(self) -> None:
        """Its workers are in the world."""
        self.send(started=pb.Started(generation=self.generation, step=self.step, idle=0.1))

    def stopped(self, failed: str = "") -> None:
        """Its workers have left the world."""
        stopped = pb.Stopped(generation=self.generation, step=self.step, clean=True, failed=failed)
        self.send(stopped=stopped)

    def beat(self) -> None:
        """Shows that it lives, and that a step was completed."""
        self.step += 1
        self.send(progress=pb.Progress(generation=self.generation, step=self.step))

    async def _live(self) -> None:
        options = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
            *channel_options(1),
        ]
        secure = self._credentials.for_client()
        async with grpc.aio.secure_channel(self._target, secure, options=options) as channel:
            call = channel.stream_stream(
                f"/{SERVICE}/{METHOD}",
                request_serializer=pb.FromAgent.SerializeToString,
                response_deserializer=pb.FromCoordinator.FromString,
            )(self._requests(), metadata=self._credentials.metadata)
            hello = pb.Hello(
                protocol=PROTOCOL,
                member=str(self.member),
                slots=self.slots,
                address="127.0.0.1",
            )
            self.send(hello=hello)
            self.send(ready=pb.Ready())
            async for order in call:
                await self._obey(order)

    async def _requests(self) -> AsyncIterator[pb.FromAgent]:
        while True:
            yield await self._outbox.get()

    async def _obey(self, order: pb.FromCoordinator) -> None:
        kind = order.WhichOneof("body")
        if kind == "form":
            self.generation = order.form.world.generation
            await self._formed(self, order.form)
        elif kind == "abort":
            await self._aborted(self)
        elif kind == "columns":
            self._columns(order.columns)
        elif kind == "prove":  # what these reach of each other is nothing that is measured
            self.send(proved=pb.Proved(peer=order.prove.peer))


class Host:
    """What an agent does for its workers when a world forms, by a real rendezvous server.

    Args:
        join: takes the workers into a world, by the port of its rendezvous.
        leave: takes them out of it.
    """

    def __init__(
        self,
        join: Callable[[SimulatedAgent, World, int], Awaitable[None]],
        leave: Callable[[], Awaitable[None]],
    ) -> None:
        self._join = join
        self._leave = leave
        self._rendezvous: Rendezvous | None = None
        self._task: asyncio.Task[None] | None = None

    async def formed(self, agent: SimulatedAgent, form: pb.Form) -> None:
        world = world_from_message(form.world)
        await self.close()
        self._rendezvous = Rendezvous(world, agent.member, partial(self._send, agent))
        await self._rendezvous.start()
        self._task = asyncio.create_task(self._take_part(agent, world, self._rendezvous.port))

    async def aborted(self, agent: SimulatedAgent) -> None:
        await self._leave()
        agent.stopped("the generation was broken off")

    def columns(self, message: pb.Columns) -> None:
        assert self._rendezvous is not None
        for one in message.columns:
            self._rendezvous.take(message.scope, one.rank, one.addresses)

    async def close(self) -> None:
        """Ends its server."""
        if self._rendezvous is not None:
            await self._rendezvous.close()

    async def _take_part(self, agent: SimulatedAgent, world: World, port: int) -> None:
        await self._join(agent, world, port)
        agent.started()
        agent.beat()

    @staticmethod
    def _send(agent: SimulatedAgent, scope: str, size: int, rank: int, row: bytes) -> None:
        addresses = pb.Addresses(rank=rank, addresses=row)
        row_ = pb.Row(generation=agent.generation, scope=scope, size=size, row=addresses)
        agent.send(row=row_)
