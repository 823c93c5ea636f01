"""The leader's server, over real gRPC on loopback: who may speak, and what is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.trainer.ranks import PATIENCE
from trainer.coordinator.coordinator import Coordinator
from trainer.coordinator.limits import Limits
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import CHANNEL_OPTIONS, Credentials, new_secret
from trainer.protocol.lease import newest_claim
from trainer.protocol.wire import METHOD, SERVICE, world_to_message
from trainer.protocol.world import MemberId, World, arrange
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.store import Store

SECRET = new_secret()
OURS = Credentials.parse(SECRET)
TOKEN = OURS.token
A, B = MemberId("workerpool0-0", "a1"), MemberId("workerpool1-0", "b1")


class Leader:
    """A coordinator that leads a run of two workers."""

    def __init__(self, path: Path, **policy: Any) -> None:
        self.run_dir = RunDirectory(str(path))
        limits = {"min_workers": 2, "max_workers": 2, "hold_off": 0.0, **policy}
        self.policy = Limits(**limits)
        self.coordinator = self.coordinate("leader#0")

    def coordinate(self, member: str, **policy: Any) -> Coordinator:
        return Coordinator(
            self.run_dir,
            replace(self.policy, **policy),
            self.policy.max_workers,
            OURS,
            "127.0.0.1",
            MemberId.parse(member),
        )

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
        self._channel = grpc.aio.secure_channel(target, OURS.for_client(), options=CHANNEL_OPTIONS)
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

    async def send(self, message: Any) -> None:
        await self._call.write(message)

    async def say(self, **body: Any) -> None:
        await self.send(pb.FromAgent(**body))

    async def hello(self, member: MemberId, world: World | None = None) -> None:
        hello = pb.Hello(member=str(member), slots=1, address="127.0.0.1")
        if world is not None:
            hello.world.CopyFrom(world_to_message(world, {}))
        await self.say(hello=hello)

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
async def leading(path: Path, **policy: Any) -> AsyncIterator[Leader]:
    leader = Leader(path, **policy)
    assert await leader.coordinator.lead(1, 0)
    try:
        yield leader
    finally:
        await leader.coordinator.stop()


@asynccontextmanager
async def world_of_two(leader: Leader) -> AsyncIterator[tuple[Agent, Agent, Any]]:
    """Two agents in a world that was just formed. Yields what they were sent."""
    async with Agent(leader.target) as a, Agent(leader.target) as b:
        await a.hello(A)
        await b.hello(B)
        for agent in (a, b):
            await agent.say(ready=pb.Ready())
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


TOKENS = {"none": None, "empty": "", "wrong": "wrong", "longer": TOKEN + "x", "cut": TOKEN[:-1]}


@pytest.mark.parametrize("token", TOKENS.values(), ids=list(TOKENS))
def test_without_the_runs_token_nobody_gets_in(tmp_path: Path, token: str | None) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target, token) as stranger:
                assert await stranger.ended() is grpc.StatusCode.UNAUTHENTICATED
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


GARBAGE = {
    "another message": pb.FromAgent(ready=pb.Ready()),
    "nothing": pb.FromAgent(),
    "no name": pb.FromAgent(hello=pb.Hello()),
    "half a name": pb.FromAgent(hello=pb.Hello(member="workerpool1-0")),
    "no world": pb.FromAgent(hello=pb.Hello(member="x#1", world=pb.World(generation=3))),
    "bytes": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("message", GARBAGE.values(), ids=GARBAGE)
def test_what_begins_with_garbage_is_refused(tmp_path: Path, message: Any) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target) as stranger:
                await stranger.send(message)
                assert await stranger.ended() is not grpc.StatusCode.OK
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


def test_a_stream_that_ends_at_once_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target) as stranger:
                await stranger._call.done_writing()
                assert await stranger.ended() is grpc.StatusCode.INVALID_ARGUMENT
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


async def assert_undisturbed(leader: Leader, a: Agent, b: Agent) -> None:
    """The world that was forming goes on as if nobody else had come."""
    await a.say(row=row(0))
    await b.say(row=row(1))
    for agent in (a, b):
        assert len((await agent.until("columns")).columns) == 1
    await leader.coordinator.stop()
    assert leader.events().count("member_joined") == 2
    assert "loss" not in leader.events()


@with_leader
async def test_an_agent_that_talks_nonsense_later_leaves(leader: Leader) -> None:
    async with Agent(leader.target) as agent:
        await agent.hello(A)
        await agent.send(pb.FromAgent())
        assert await agent.receive() is None


@with_leader
async def test_the_token_is_written_nowhere(leader: Leader) -> None:
    async with world_of_two(leader):
        pass
    await leader.coordinator.stop()
    files = [path for path in Path(leader.run_dir.url).rglob("*") if path.is_file()]
    assert files
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)


@with_leader
async def test_two_agents_are_formed_into_a_world(leader: Leader) -> None:
    async with world_of_two(leader) as (_, _, world):
        assert world.generation == 1
        assert [(one.member, one.count, one.address) for one in world.slots] == [
            (str(A), 1, "127.0.0.1"),
            (str(B), 1, "127.0.0.1"),
        ]


@with_leader
async def test_columns_come_down_once_when_all_rows_of_a_scope_are_there(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await a.say(row=row(0))
        await a.say(row=row(0, scope="cross_0"))
        await a.say(row=row(0))  # told twice
        await b.say(row=row(1, scope="cross_0"))
        await b.say(row=row(1))
        for rank, agent in enumerate((a, b)):
            for scope in ("cross_0", "global"):
                columns = await agent.until("columns")
                assert (columns.generation, columns.scope) == (1, scope)
                assert [(one.rank, one.addresses) for one in columns.columns] == [
                    (rank, address(1 - rank, rank, scope))
                ]


@with_leader
async def test_a_new_leader_completes_the_meshes_of_the_world_that_it_found(
    leader: Leader,
) -> None:
    world = arrange(7, [(A, 1), (B, 1)])
    async with Agent(leader.target) as a, Agent(leader.target) as b:
        for rank, (agent, member) in enumerate(((a, A), (b, B))):
            await agent.hello(member, world)
            await agent.say(row=row(rank, generation=7))
        for rank, agent in enumerate((a, b)):
            (column,) = (await agent.until("columns")).columns
            assert column.addresses == address(1 - rank, rank, "global")


@with_leader
async def test_rows_of_another_generation_are_dropped(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await a.say(row=row(0, generation=2))
        await a.say(row=pb.Row(generation=0, scope="global", size=2**31 - 1))
        await a.say(row=row(0))
        await b.say(row=row(1))
        assert (await a.until("columns")).generation == 1


NO_ROWS = {
    "nothing": pb.Row(generation=1),
    "a mesh of one": pb.Row(generation=1, scope="global", size=1),
    "a mesh of nobody": pb.Row(generation=1, scope="global", size=-1),
    "larger than the world": row(0, size=3),
    "not its size": pb.Row(
        generation=1, scope="global", size=2, row=pb.Addresses(rank=0, addresses=bytes(16))
    ),
    "a giant": pb.Row(
        generation=1, scope="global", size=2, row=pb.Addresses(rank=0, addresses=bytes(2**20))
    ),
    "a rank that is not there": pb.Row(
        generation=1, scope="global", size=2, row=pb.Addresses(rank=2, addresses=bytes(8))
    ),
    "another's": pb.Row(
        generation=1, scope="global", size=2, row=pb.Addresses(rank=0, addresses=bytes(8))
    ),
}


@pytest.mark.parametrize("garbage", NO_ROWS.values(), ids=NO_ROWS)
def test_an_agent_that_sends_no_row_leaves(tmp_path: Path, garbage: pb.Row) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            await a.say(row=row(0))
            await asyncio.sleep(0.05)
            await b.say(row=garbage)
            assert await b.receive() is None
            assert (await a.until("abort")).generation == 1

    asyncio.run(body())


@pytest.mark.parametrize("members, slots", [(4, 1), (8, 1), (4, 4)])
def test_a_world_is_formed_with_few_messages(tmp_path: Path, members: int, slots: int) -> None:
    """Down: one to form it, and one with the columns of a mesh; up: a row for each rank."""
    size = members * slots

    async def body() -> None:
        policy = {"min_workers": size, "max_workers": size}
        async with leading(tmp_path, **policy) as leader, AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(Agent(leader.target)) for _ in range(members)]
            for number, agent in enumerate(agents):
                hello = pb.Hello(member=f"vm-{number}#0", slots=slots, address="127.0.0.1")
                await agent.say(hello=hello)
                await agent.say(ready=pb.Ready())
            for number, agent in enumerate(agents):
                assert (await agent.receive()).WhichOneof("body") == "form"
                for local in range(slots):
                    await agent.say(row=row(number * slots + local, size))
            for number, agent in enumerate(agents):
                columns = (await agent.receive()).columns
                ranks = [number * slots + local for local in range(slots)]
                assert {one.rank: one.addresses for one in columns.columns} == {
                    rank: b"".join(
                        address(peer, rank, "global") for peer in range(size) if peer != rank
                    )
                    for rank in ranks
                }
            await train(*agents)
            await agents[0].say(done=pb.Done(generation=1, step=1))
            for agent in agents:
                assert (await agent.receive()).WhichOneof("body") == "finish"

    asyncio.run(body())


async def train(*agents: Agent, step: int = 0) -> None:
    for agent in agents:
        await agent.say(started=pb.Started(generation=1, step=step))


@with_leader
async def test_done_ends_the_run(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        await a.say(done=pb.Done(generation=1, step=9, metrics={"accuracy": 0.9}))
        for agent in (a, b):
            assert (await agent.until("finish")).state == "succeeded"
    outcome = leader.run_dir.outcome()
    assert outcome is not None
    assert (outcome["state"], outcome["term"]) == ("succeeded", 1)
    assert outcome["metrics"] == {"accuracy": 0.9}
    assert "finished" in leader.events(), "events are written before the outcome"


@with_leader
async def test_a_task_that_raised_fails_the_run_with_its_traceback(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        await b.say(task_failed=pb.TaskFailed(rank=1, step=3, reason="ZeroDivisionError: x"))
        for agent in (a, b):
            finish = await agent.until("finish")
            assert finish.state == "failed"
            assert "ZeroDivisionError: x" in finish.reason
    outcome = leader.run_dir.outcome()
    assert outcome is not None
    assert outcome["state"] == "failed"
    assert "ZeroDivisionError: x" in outcome["reason"]


@with_leader
async def test_an_outcome_that_came_first_is_the_one_that_is_told(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        leader.run_dir.end("cancelled", "by its user")
        await a.say(done=pb.Done(generation=1, step=9))
        for agent in (a, b):
            finish = await agent.until("finish")
            assert (finish.state, finish.reason) == ("cancelled", "by its user")


@with_leader
async def test_a_store_that_is_away_delays_the_end_and_no_more(leader: Leader) -> None:
    class Away(Store):
        failures = 3

        def create(self, name: str, data: bytes) -> bool:
            self.failures -= 1
            if self.failures >= 0:
                raise OSError("the store is away")
            return super().create(name, data)

    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        leader.run_dir.store = Away(leader.run_dir.url)
        await a.say(done=pb.Done(generation=1, step=9))
        assert (await a.until("finish")).state == "succeeded"
    assert leader.run_dir.outcome() is not None


@with_leader
async def test_a_broken_connection_is_a_loss(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        await b.__aexit__()
        assert (await a.until("abort")).generation == 1


@with_leader
async def test_an_agent_that_connects_again_is_not_lost_with_its_old_connection(
    leader: Leader,
) -> None:
    async with world_of_two(leader) as (a, b, message):
        await train(a, b)
        world = arrange(1, [(A, 1), (B, 1)])
        assert message.generation == world.generation
        async with Agent(leader.target) as again:
            await again.hello(B, world)
            while await b.receive() is not None:  # the old stream is ended
                pass
            await a.say(done=pb.Done(generation=1, step=9))
            assert (await again.until("finish")).state == "succeeded"
    await leader.coordinator.stop()
    assert "loss" not in leader.events()
