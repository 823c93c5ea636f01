"""A coordinator that leads a run of two workers, and agents that speak to it, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.trainer.ranks import PATIENCE
from trainer.coordinator import succession
from trainer.coordinator.coordinator import Coordinator, lead
from trainer.coordinator.limits import Limits
from trainer.coordinator.seat import Seat
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import new_secret
from trainer.protocol.credentials import Credentials, channel_options
from trainer.protocol.lease import newest_claim
from trainer.protocol.wire import METHOD, SERVICE, world_to_message
from trainer.protocol.world import MemberId, World
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.formats import PROTOCOL

SECRET = new_secret()
OURS = Credentials.parse(SECRET)
TOKEN = OURS.token
A, B = MemberId("workerpool0-0", "a1"), MemberId("workerpool1-0", "b1")


def seat(path: Path, member: str = "leader#0", changes: bool = False, **limits: Any) -> Seat:
    """Where a run of two workers is led from."""
    fixed = Limits(**{"min_workers": 2, "max_workers": 2, "hold_off": 0.0, **limits})
    where = RunDirectory(str(path))
    who = MemberId.parse(member)
    return Seat(where, OURS, who, "127.0.0.1", fixed.max_workers, fixed, changes)


@dataclass(frozen=True)
class Leader:
    """A coordinator, and what can be seen of it."""

    run_dir: RunDirectory
    coordinator: Coordinator

    @property
    def target(self) -> str:
        claim = newest_claim(self.run_dir)
        assert claim is not None
        return claim.target

    def events(self) -> list[str]:
        return [event["event"] for event in read_events(self.run_dir)]


class Agent:
    """One stream to a coordinator, spoken by hand."""

    def __init__(self, target: str, token: str | None = TOKEN) -> None:
        self._channel = grpc.aio.secure_channel(
            target, OURS.for_client(), options=channel_options(1)
        )
        join = self._channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
            response_deserializer=pb.FromCoordinator.FromString,
        )
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._call = join(metadata=metadata)

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def write(self, message: Any) -> None:
        await self._call.write(message)

    async def send(self, **body: Any) -> None:
        await self.write(pb.FromAgent(**body))

    async def hello(self, member: MemberId, world: World | None = None) -> None:
        hello = pb.Hello(protocol=PROTOCOL, member=str(member), slots=1, address="127.0.0.1")
        if world is not None:
            hello.world.CopyFrom(world_to_message(world, {}))
        await self.send(hello=hello)

    async def receive(self) -> Any:
        """The next order, or None when the stream has ended."""
        message = await self._read()
        while message is not None and message.WhichOneof("body") == "beat":
            message = await self._read()
        return message

    async def _read(self) -> Any:
        message = await asyncio.wait_for(self._call.read(), PATIENCE)
        return None if message == grpc.aio.EOF else message

    async def until(self, kind: str) -> Any:
        """The next order of this kind; others are dropped."""
        while (message := await self._read()) is not None:
            if message.WhichOneof("body") == kind:
                return getattr(message, kind)
        raise AssertionError(f"the stream ended before {kind!r}")

    async def until_end(self) -> grpc.StatusCode:
        """How the coordinator ended the stream; what came before is dropped."""
        while await self._read() is not None:
            pass
        return await asyncio.wait_for(self._call.code(), PATIENCE)

    async def ended(self) -> grpc.StatusCode:
        """How the coordinator ended the stream, on which nothing came before."""
        try:
            assert await self.receive() is None
        except grpc.aio.AioRpcError as error:
            assert TOKEN not in str(error)
        return await asyncio.wait_for(self._call.code(), PATIENCE)


@asynccontextmanager
async def leading(
    path: Path,
    term: int = 1,
    generation: int = 0,
    hand_over_limit: float = succession.LIMIT,
    **limits: Any,
) -> AsyncIterator[Leader]:
    """A leader, to whom ``generation`` is known as that of an earlier one."""
    where = seat(path, **limits)
    coordinator = await lead(where, term, generation, hand_over_limit=hand_over_limit)
    assert coordinator is not None
    try:
        yield Leader(where.run_dir, coordinator)
    finally:
        await coordinator.stop()


@asynccontextmanager
async def world_of_two(
    leader: Leader, first: MemberId = A, second: MemberId = B
) -> AsyncIterator[tuple[Agent, Agent, Any]]:
    """Two agents in a world that was just formed. Yields what they were sent."""
    async with Agent(leader.target) as a, Agent(leader.target) as b:
        await a.hello(first)
        await b.hello(second)
        for agent in (a, b):
            await agent.send(ready=pb.Ready())
        worlds = [(await agent.until("form")).world for agent in (a, b)]
        assert worlds[0] == worlds[1]
        yield a, b, worlds[0]


def row(rank: int, size: int = 2, scope: str = "global", generation: int = 1) -> pb.Row:
    """The addresses that a rank made: one for each of the others, which tells for whom."""
    addresses = b"".join(address(rank, peer, scope) for peer in range(size) if peer != rank)
    mine = pb.Addresses(rank=rank, addresses=addresses)
    return pb.Row(generation=generation, scope=scope, size=size, row=mine)


def address(rank: int, peer: int, scope: str) -> bytes:
    return f"{rank:02}{peer:02}{scope:4}"[:8].encode()


def with_leader(
    test: Callable[[Leader], Coroutine[Any, Any, None]],
) -> Callable[[Path], None]:
    """A test of one leader."""

    def run(tmp_path: Path) -> None:
        async def body() -> None:
            async with leading(tmp_path) as leader:
                await test(leader)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


async def assert_undisturbed(leader: Leader, a: Agent, b: Agent) -> None:
    """The world that was forming goes on as if nobody else had come."""
    await a.send(row=row(0))
    await b.send(row=row(1))
    for agent in (a, b):
        assert len((await agent.until("columns")).columns) == 1
    await leader.coordinator.stop()
    assert leader.events().count("member_joined") == 2
    assert "loss" not in leader.events()


async def train(*agents: Agent, step: int = 0) -> None:
    for agent in agents:
        await agent.send(started=pb.Started(generation=1, step=step))
