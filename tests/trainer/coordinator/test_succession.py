"""A leader whose VM is to go, over real gRPC: who leads next, and what if nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from tests.trainer.coordinator.leader import (
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
from trainer.protocol.lease import Claim, create_claim
from trainer.protocol.world import MemberId

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
        await its.send(drain=NOTICE)
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
        await its.send(drain=NOTICE)
        assert await its.until("release") == pb.Release(reason="drained", rejoin=False)


@with_leader
async def test_whoever_leaves_is_not_called(leader: Leader) -> None:
    async with its_own_agent(leader) as its, world_of_two(leader) as (a, b, _):
        await train(a, b)
        await a.send(drain=NOTICE)
        await b.until("pause")
        await its.send(drain=NOTICE)
        assert await b.until("succeed") == pb.Succeed()
        create_claim(leader.run_dir, Claim(2, str(B), "127.0.0.1:1"))  # which ends all streams
        heard = []
        while (order := await a.receive()) is not None:
            heard.append(order.WhichOneof("body"))
        assert "pause" in heard and "succeed" not in heard


def test_when_all_are_to_go_none_waits_for_a_successor(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path, hand_over_limit=PATIENCE) as leader, AsyncExitStack() as stack:
            its = await stack.enter_async_context(its_own_agent(leader))
            a, b, _ = await stack.enter_async_context(world_of_two(leader))
            await train(a, b)
            for agent in (its, a, b):
                await agent.send(drain=NOTICE)
            assert (await its.until("release")).reason == "drained"

    asyncio.run(body())


def test_an_heir_that_does_not_lead_is_not_waited_for_long(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path, hand_over_limit=0.1) as leader, AsyncExitStack() as stack:
            its = await stack.enter_async_context(its_own_agent(leader))
            a, b, _ = await stack.enter_async_context(world_of_two(leader))
            await its.send(drain=NOTICE)
            calls = [asyncio.ensure_future(agent.until("succeed")) for agent in (a, b)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert done
            for call in calls:
                call.cancel()
            assert (await its.until("release")).reason == "drained"

    asyncio.run(body())
