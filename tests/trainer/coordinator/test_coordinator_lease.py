"""What a coordinator does to keep its lease, and without it, over real gRPC on loopback."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from tests.trainer.coordinator.leader import (
    A,
    Agent,
    B,
    Leader,
    leading,
    seat,
    train,
    with_leader,
    world_of_two,
)
from tests.trainer.ranks import PATIENCE
from trainer.coordinator.coordinator import lead
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.lease import Claim, create_claim, newest_claim
from trainer.rundir.directory import RunDirectory
from trainer.rundir.store import Store


@with_leader
async def test_a_term_that_is_taken_is_not_led(leader: Leader) -> None:
    assert await lead(seat(Path(leader.run_dir.url), "late#0"), term=1) is None
    claim = newest_claim(leader.run_dir)
    assert claim is not None and claim.member == "leader#0"


def test_the_lease_is_renewed(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path, generation=6, lease_renew=0.01) as leader:
            while (claim := newest_claim(leader.run_dir)) is None or claim.counter < 3:
                await asyncio.sleep(0.01)
            assert (claim.term, claim.generation) == (1, 6)

    asyncio.run(body())


def test_a_leader_that_was_replaced_lets_its_agents_go(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path, lease_renew=0.01) as leader, Agent(leader.target) as agent:
            await agent.hello(A)
            create_claim(leader.run_dir, Claim(2, "new#0", "127.0.0.1:1"))
            await agent.ended()
            assert leader.run_dir.outcome() is None, "the run goes on"

    asyncio.run(body())


def test_a_leader_that_was_replaced_ends_no_run(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            await train(a, b)
            create_claim(leader.run_dir, Claim(2, "new#0", "127.0.0.1:1"))
            await a.send(done=pb.Done(generation=1, step=9))
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
                await agent.send(ready=pb.Ready())
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
        limits: dict[str, Any] = {
            "heartbeat": 0.05,
            "suspicion": 0.1,
            "lease_timeout": 0.3,
            "lease_renew": 0.1,
        }
        async with leading(tmp_path, **limits) as leader, Agent(leader.target) as agent:
            await agent.hello(A)
            leader.run_dir.store = Away(leader.run_dir.url)
            assert await agent.until_end() == grpc.StatusCode.OK
            await asyncio.wait_for(leader.coordinator.ended.wait(), PATIENCE)

    asyncio.run(body())


def test_a_leader_learns_which_generation_was_the_last(tmp_path: Path) -> None:
    async def body() -> None:
        run_dir = RunDirectory(str(tmp_path))
        create_claim(run_dir, Claim(1, "old#0", "127.0.0.1:1", generation=6, counter=9))
        async with leading(tmp_path, term=2, generation=5, lease_renew=0.01):  # as known before
            while (claim := newest_claim(run_dir)) is None or not claim.counter:
                await asyncio.sleep(0.01)
            assert claim.generation == 6

    asyncio.run(body())


@with_leader
async def test_followers_hear_that_the_leader_lives(leader: Leader) -> None:
    async with Agent(leader.target) as a:
        await a.hello(A)
        beats = [await a.until("beat") for _ in range(3)]
        assert beats == [pb.Beat()] * 3
    assert leader.events().count("leader_changed") == 1, "it leads all the while"


def test_a_leader_that_resigns_says_so(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader:
            await leader.coordinator.stop(resign=True)
            claim = newest_claim(leader.run_dir)
            assert claim is not None and claim.resigned

    asyncio.run(body())
