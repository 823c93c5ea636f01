"""The leader's lease, over real gRPC on loopback: what a leader does to keep it, and without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from tests.trainer.coordinator.test_coordinator import (
    A,
    Agent,
    B,
    Leader,
    leading,
    train,
    with_leader,
    world_of_two,
)
from tests.trainer.ranks import PATIENCE
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.lease import Claim, create_claim, newest_claim
from trainer.protocol.world import MemberId
from trainer.rundir.store import Store


@with_leader
async def test_a_term_that_is_taken_is_not_led(leader: Leader) -> None:
    late = leader.coordinate("late#0")
    assert not await late.lead(1, 0)
    claim = newest_claim(leader.run_dir)
    assert claim is not None and claim.member == "leader#0"


def test_the_lease_is_renewed(tmp_path: Path) -> None:
    async def body() -> None:
        leader = Leader(tmp_path)
        coordinator = leader.coordinate("leader#0", lease_renew=0.01)
        assert await coordinator.lead(1, last_generation=6)
        try:
            while (claim := newest_claim(leader.run_dir)) is None or claim.counter < 3:
                await asyncio.sleep(0.01)
            assert (claim.term, claim.generation) == (1, 6)
        finally:
            await coordinator.stop()

    asyncio.run(body())


def test_a_leader_that_was_replaced_lets_its_agents_go(tmp_path: Path) -> None:
    async def body() -> None:
        leader = Leader(tmp_path)
        coordinator = leader.coordinate("leader#0", lease_renew=0.01)
        assert await coordinator.lead(1, 0)
        try:
            async with Agent(leader.target) as agent:
                await agent.hello(A)
                create_claim(leader.run_dir, Claim(2, "new#0", "127.0.0.1:1"))
                await agent.ended()
        finally:
            await coordinator.stop()

    asyncio.run(body())


def test_a_leader_that_was_replaced_ends_no_run(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            await train(a, b)
            create_claim(leader.run_dir, Claim(2, "new#0", "127.0.0.1:1"))
            await a.say(done=pb.Done(generation=1, step=9))
            await a.ended()
            assert leader.run_dir.outcome() is None

    asyncio.run(body())


@with_leader
async def test_a_world_is_announced_before_it_is_formed(leader: Leader) -> None:
    async with world_of_two(leader):
        claim = newest_claim(leader.run_dir)
        assert claim is not None and claim.generation == 1


def test_a_leader_that_was_replaced_forms_no_world(tmp_path: Path) -> None:
    """It does not know it yet; but it announces the world before, and finds out."""

    async def body() -> None:
        async with leading(tmp_path, lease_renew=1.0) as leader, AsyncExitStack() as stack:
            a = await stack.enter_async_context(Agent(leader.target))
            b = await stack.enter_async_context(Agent(leader.target))
            await a.hello(A)
            await b.hello(B)
            create_claim(leader.run_dir, Claim(2, "new#0", "127.0.0.1:1"))
            for agent in (a, b):
                await agent.say(ready=pb.Ready())
            for agent in (a, b):
                assert (await agent.receive()) is None
        assert "generation_formed" not in leader.events()

    asyncio.run(body())


def test_a_world_waits_for_a_store_that_is_away(tmp_path: Path) -> None:
    """Until the store answers, it is not known whether this is still the leader."""

    class Away(Store):
        failures = 5

        def write(self, name: str, data: bytes | memoryview) -> None:
            if name.startswith("leader/"):
                self.failures -= 1
                if self.failures >= 0:
                    raise OSError("the store is away")
            super().write(name, data)

    async def body() -> None:
        async with leading(tmp_path) as leader:
            leader.run_dir.store = Away(leader.run_dir.url)
            async with world_of_two(leader) as (_, _, world):
                assert world.generation == 1
            assert leader.run_dir.store.failures < 0

    asyncio.run(body())


def test_a_leader_that_cannot_renew_leads_no_longer(tmp_path: Path) -> None:
    class Away(Store):
        def write(self, name: str, data: bytes | memoryview) -> None:
            raise OSError("the store is away")

    async def body() -> None:
        limits = {"heartbeat": 0.05, "suspicion": 0.1, "lease_timeout": 0.3, "lease_renew": 0.1}
        async with leading(tmp_path, **limits) as leader, Agent(leader.target) as agent:
            await agent.hello(A)
            leader.run_dir.store = Away(leader.run_dir.url)
            assert await agent.until_end() == grpc.StatusCode.OK
            await asyncio.wait_for(leader.coordinator.ended.wait(), PATIENCE)

    asyncio.run(body())


def test_a_leader_learns_which_generation_was_the_last(tmp_path: Path) -> None:
    async def body() -> None:
        leader = Leader(tmp_path)
        create_claim(leader.run_dir, Claim(1, "old#0", "127.0.0.1:1", generation=6, counter=9))
        coordinator = leader.coordinate("leader#0", lease_renew=0.01)
        assert await coordinator.lead(2, last_generation=5)  # as it was known before
        try:
            while (claim := newest_claim(leader.run_dir)) is None or not claim.counter:
                await asyncio.sleep(0.01)
            assert claim.generation == 6
        finally:
            await coordinator.stop()

    asyncio.run(body())


@with_leader
async def test_followers_hear_that_the_leader_lives(leader: Leader) -> None:
    async with Agent(leader.target) as a:
        await a.hello(A)
        beats = [await a.until("beat") for _ in range(3)]
        assert beats == [pb.Beat()] * 3
    assert leader.events().count("leader_changed") == 1, "it leads all the while"


LEADER = MemberId("leader", "0")
NOTICE = pb.Drain(reason="notice", deadline=15.0)


@asynccontextmanager
async def its_own_agent(leader: Leader) -> AsyncIterator[Agent]:
    """That of the VM that leads."""
    async with Agent(leader.target) as agent:
        await agent.hello(LEADER)
        yield agent


@with_leader
async def test_a_leader_whose_vm_is_to_go_calls_another_one(leader: Leader) -> None:
    async with its_own_agent(leader) as its, world_of_two(leader) as (a, b, _):
        await its.say(drain=NOTICE)
        calls = [asyncio.ensure_future(agent.until("succeed")) for agent in (a, b)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        create_claim(leader.run_dir, Claim(2, str(A), "127.0.0.1:1"))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, pb.Succeed) for one in answers) == 1, "the other is sent away"
        assert await its.until_end() is grpc.StatusCode.OK, "its successor hears of the drain"
    await leader.coordinator.stop()
    assert not {"loss", "drain"} & set(leader.events())


@with_leader
async def test_where_nobody_else_is_it_leaves_as_any_other(leader: Leader) -> None:
    async with its_own_agent(leader) as its:
        await its.say(drain=NOTICE)
        assert (await its.until("release")).reason == "drained"


@with_leader
async def test_whoever_leaves_is_not_called(leader: Leader) -> None:
    async with its_own_agent(leader) as its, world_of_two(leader) as (a, b, _):
        await train(a, b)
        await a.say(drain=NOTICE)
        await b.until("pause")
        await its.say(drain=NOTICE)
        assert await b.until("succeed") == pb.Succeed()
        create_claim(leader.run_dir, Claim(2, str(B), "127.0.0.1:1"))  # which ends all streams
        heard = []
        while (order := await a.receive()) is not None:
            heard.append(order.WhichOneof("body"))
        assert "pause" in heard and "succeed" not in heard


@with_leader
async def test_when_all_are_to_go_none_waits_for_a_successor(leader: Leader) -> None:
    leader.coordinator.hand_over_limit = PATIENCE
    async with its_own_agent(leader) as its, world_of_two(leader) as (a, b, _):
        await train(a, b)
        for agent in (its, a, b):
            await agent.say(drain=NOTICE)
        assert (await its.until("release")).reason == "drained"


def test_an_heir_that_does_not_lead_is_not_waited_for_long(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, its_own_agent(leader) as its:
            leader.coordinator.hand_over_limit = 0.1
            async with world_of_two(leader) as (a, b, _):
                await its.say(drain=NOTICE)
                calls = [asyncio.ensure_future(agent.until("succeed")) for agent in (a, b)]
                done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                assert done
                for call in calls:
                    call.cancel()
                assert (await its.until("release")).reason == "drained"

    asyncio.run(body())


def test_a_leader_that_resigns_says_so(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader:
            await leader.coordinator.stop(resign=True)
            claim = newest_claim(leader.run_dir)
            assert claim is not None and claim.resigned

    asyncio.run(body())


@with_leader
async def test_an_agent_that_means_another_leader_is_sent_away(leader: Leader) -> None:
    async with Agent(leader.target) as agent:
        await agent.say(hello=pb.Hello(member=str(A), slots=1, address="127.0.0.1", term=2))
        assert await agent.ended() is grpc.StatusCode.FAILED_PRECONDITION
