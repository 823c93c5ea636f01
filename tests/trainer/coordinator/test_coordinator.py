"""A coordinator, over real gRPC on loopback: what it passes on, and how a run ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.coordinator.leader import (
    A,
    Agent,
    B,
    Leader,
    address,
    leading,
    row,
    train,
    with_leader,
    world_of_two,
)
from trainer.coordinator import attendants, explanation, unattended
from trainer.coordinator import coordinator as coordinators
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import MemberId, arrange
from trainer.rundir.events import Event, read_events
from trainer.rundir.formats import PROTOCOL
from trainer.rundir.profiles import Wish, create_wish
from trainer.rundir.store import Store
from trainer.rundir.wanted import Wanted, create_wanted, newest_wanted


@with_leader
async def test_two_agents_are_formed_into_a_world(leader: Leader) -> None:
    async with world_of_two(leader) as (_, _, world):
        assert world.generation == 1
        assert [(one.member, one.count, one.address) for one in world.slots] == [
            (str(A), 1, "127.0.0.1"),
            (str(B), 1, "127.0.0.1"),
        ]


def test_what_is_waited_for_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "FIRST", 0.0)

    async def body() -> None:
        async with leading(tmp_path) as leader, Agent(leader.target) as a:
            await a.hello(A)
            told: list[Event] = []
            while not any("1 slot is ready" in one.get("reason", "") for one in told):
                await a.send(ready=pb.Ready())
                await asyncio.sleep(0.05)
                told = [one for one in read_events(leader.run_dir) if one["event"] == "held_up"]
        assert told[-1]["reason"] == "1 slot is ready, and at least 2 must be"

    asyncio.run(body())


@pytest.mark.parametrize("store", ["takes them", "is away"])
def test_agents_are_asked_about_a_world_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    write = Store.write

    def writes(self: Store, name: str, data: bytes) -> None:
        if store == "is away" and name.startswith("stacks/"):
            raise OSError("it is away")
        write(self, name, data)

    monkeypatch.setattr(Store, "write", writes)
    stack = 'Thread 0x0 (most recent call first):\n  File "/a.py", line 3 in f'

    async def body() -> None:
        async with leading(tmp_path, standstill=0.2) as leader, world_of_two(leader) as (a, b, _):
            await train(a, b, step=7)
            for rank, agent in enumerate((a, b)):
                asked = await agent.until("inspect")
                assert asked.generation == 1
                stacks = pb.Stacks(number=asked.number, generation=1)
                stacks.stacks.append(pb.Stack(rank=rank, text=stack, busy=1.0))
                await agent.send(stacks=stacks)
            told: list[Event] = []
            while not told:
                await asyncio.sleep(0.05)
                told = [one for one in read_events(leader.run_dir) if one["event"] == "standstill"]
            (one,) = told
            assert one["reason"] == "all 2 ranks compute in f (a.py:3)"
            assert (one["generation"], one["step"]) == (1, 7)
            if store == "is away":
                assert "stacks" not in one
            else:
                assert b"/a.py" in leader.run_dir.store.read(one["stacks"])

    asyncio.run(body())


@with_leader
async def test_agents_are_asked_before_a_worker_that_shows_no_life_is_killed(
    leader: Leader,
) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b, step=7)
        await b.send(progress=pb.Progress(generation=1, step=7, quiet=6.0))
        assert (await a.until("inspect")).generation == 1


@with_leader
async def test_a_machine_that_shows_too_little_is_not_let_in(leader: Leader) -> None:
    async with AsyncExitStack() as stack:
        for number, memory in enumerate((20e9, 20e9, 2e9)):
            agent = await stack.enter_async_context(Agent(leader.target))
            hello = pb.Hello(protocol=PROTOCOL, slots=1, address="127.0.0.1")
            hello.member = f"workerpool1-{number}#a"
            hello.shown.CopyFrom(pb.Shown(memory=memory, matmul=1e9))
            await agent.send(hello=hello)
            await agent.send(ready=pb.Ready())
        release = await agent.until("release")
        assert release.rejoin and release.broken
        assert release.reason == "its memory moves 2 GB/s, and others of its pool 20"
        await leader.coordinator.stop()
    told = read_events(leader.run_dir)
    (unfit,) = [one for one in told if one["event"] == "unfit"]
    assert (unfit["member"], unfit["then"]) == ("workerpool1-2", "replica")
    assert leader.events().count("member_joined") == 2


@with_leader
async def test_a_straggler_is_asked_about_and_told_of(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b, step=7)
        slow: dict[str, Any] = {"count": 10, "seconds": 10.0, "ranks": [0, 1], "samples": [40, 40]}
        slow |= {"computed": [1.0, 2.0], "data_wait": [0.0, 0.0]}
        for step in (10, 20):
            lie = pb.Ranks(generation=1, step=step + 5, **{**slow, "computed": [9.0, 1.0]})
            await b.send(ranks=lie)  # rank 0's word counts
            await a.send(ranks=pb.Ranks(generation=1, step=step, **slow))
        asked = await b.until("examine")
        assert (asked.generation, asked.rank) == (1, 1)
        await b.send(examined=pb.Examined(generation=1, rank=1, reason="its host takes 30%"))
        told: list[Event] = []
        while not told:
            await asyncio.sleep(0.05)
            told = [one for one in read_events(leader.run_dir) if one["event"] == "straggler"]
        (one,) = told
        assert (one["member"], one["rank"], one["ratio"]) == (B.replica, 1, 2.0)
        assert one["reason"] == "its host takes 30%"
        assert one["over"] is False and "then" not in one


def test_a_leader_that_did_not_run_for_some_time_takes_that_for_nobodys_silence(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        async with (
            leading(tmp_path, suspicion=1.0, heartbeat=0.1, lease_timeout=60.0) as leader,
            world_of_two(leader) as (a, b, _),
        ):
            for agent in (a, b):
                await agent.send(started=pb.Started(generation=1))
            for _ in range(3):
                time.sleep(2.0)  # the whole process is suspended, or starved
                await asyncio.sleep(0.3)
                for agent in (a, b):
                    await agent.send(progress=pb.Progress(generation=1))
            await a.send(done=pb.Done(step=1))
            assert (await a.until("finish")).state == "succeeded"
        assert "loss" not in leader.events()

    asyncio.run(body())


@with_leader
async def test_columns_come_down_once_when_all_rows_of_a_scope_are_there(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await a.send(row=row(0))
        await a.send(row=row(0, scope="cross_0"))
        await a.send(row=row(0))  # again
        await b.send(row=row(1, scope="cross_0"))
        await b.send(row=row(1))
        for rank, agent in enumerate((a, b)):
            scopes = set()  # a's rows and b's come by streams of their own, in any order
            for _ in range(2):
                columns = await agent.until("columns")
                assert columns.generation == 1
                scopes.add(columns.scope)
                assert [(one.rank, one.addresses) for one in columns.columns] == [
                    (rank, address(1 - rank, rank, columns.scope))
                ]
            assert scopes == {"cross_0", "global"}


@with_leader
async def test_a_new_leader_completes_the_meshes_of_the_world_that_it_found(
    leader: Leader,
) -> None:
    world = arrange(7, [(A, 1), (B, 1)])
    async with Agent(leader.target) as a, Agent(leader.target) as b:
        for rank, (agent, member) in enumerate(((a, A), (b, B))):
            await agent.hello(member, world)
            await agent.send(row=row(rank, generation=7))
        for rank, agent in enumerate((a, b)):
            (column,) = (await agent.until("columns")).columns
            assert column.addresses == address(1 - rank, rank, "global")


@with_leader
async def test_rows_of_another_generation_are_dropped(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await a.send(row=row(0, generation=2))
        await a.send(row=pb.Row(generation=0, scope="global", size=2**31 - 1))
        await a.send(row=row(0))
        await b.send(row=row(1))
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
            await a.send(row=row(0))
            await asyncio.sleep(0.05)
            await b.send(row=garbage)
            assert await b.receive() is None
            assert (await a.until("abort")).generation == 1

    asyncio.run(body())


@pytest.mark.parametrize("members, slots", [(4, 1), (8, 1), (4, 4)])
def test_a_world_is_formed_with_few_messages(tmp_path: Path, members: int, slots: int) -> None:
    """Down: one to form it, and one with the columns of a mesh; up: a row for each rank."""
    size = members * slots

    async def body() -> None:
        limits = {"min_workers": size, "max_workers": size}
        async with leading(tmp_path, **limits) as leader, AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(Agent(leader.target)) for _ in range(members)]
            for number, agent in enumerate(agents):
                hello = pb.Hello(
                    protocol=PROTOCOL, member=f"vm-{number}#0", slots=slots, address="127.0.0.1"
                )
                await agent.send(hello=hello)
                await agent.send(ready=pb.Ready())
            for number, agent in enumerate(agents):
                assert (await agent.receive()).WhichOneof("body") == "form"
                for local in range(slots):
                    await agent.send(row=row(number * slots + local, size))
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
            await agents[0].send(done=pb.Done(generation=1, step=1))
            for agent in agents:
                assert (await agent.receive()).WhichOneof("body") == "finish"

    asyncio.run(body())


@with_leader
async def test_how_processes_start_is_passed_on_if_rank_0s_agent_says_it(leader: Leader) -> None:
    start = pb.Start(generation=1, address="127.0.0.1", port=15001, version="v")
    async with world_of_two(leader) as (a, b, _):
        await b.send(start=pb.Start(generation=1, address="127.0.0.9", port=1))
        await a.send(start=pb.Start(generation=7, address="127.0.0.9", port=1))
        await b.send(progress=pb.Progress())
        await a.send(start=start)
        for agent in (a, b):
            assert await agent.until("start") == start


@with_leader
async def test_done_ends_the_run(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        await a.send(done=pb.Done(generation=1, step=9, metrics={"accuracy": 0.9}))
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
        await b.send(task_failed=pb.TaskFailed(rank=1, step=3, reason="ZeroDivisionError: x"))
        for agent in (a, b):
            finish = await agent.until("finish")
            assert finish.state == "failed"
            assert "ZeroDivisionError: x" in finish.reason
    outcome = leader.run_dir.outcome()
    assert outcome is not None
    assert outcome["state"] == "failed"
    assert "ZeroDivisionError: x" in outcome["reason"]


@with_leader
async def test_an_outcome_that_came_first_is_the_one_that_is_sent(leader: Leader) -> None:
    async with world_of_two(leader) as (a, b, _):
        await train(a, b)
        leader.run_dir.end("cancelled", "by its user")
        await a.send(done=pb.Done(generation=1, step=9))
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
        await a.send(done=pb.Done(generation=1, step=9))
        assert (await a.until("finish")).state == "succeeded"
    assert leader.run_dir.outcome() is not None


def test_steps_that_somebody_wants_to_see_are_asked_of_those_who_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinators, "PROFILES_EVERY", 0.05)
    silent: dict[str, Any] = {"suspicion": 300.0, "idle_suspicion": 300.0, "lease_timeout": 999.0}

    async def body() -> None:
        async with leading(tmp_path, **silent) as leader, world_of_two(leader) as (a, b, _):
            leader.run_dir.write_json("profiles/000001.json", {"what": "nobody asks for"})
            create_wish(leader.run_dir, Wish(2, 100, 110, ranks=(1,)))
            await train(a, b, step=7)
            asked = await b.until("profile")
            assert asked == pb.Profile(generation=1, rank=1, number=2, first=100, last=110)
            create_wish(leader.run_dir, Wish(3, 200, 200, memory=True))
            assert (await a.until("profile")).number == 3

    asyncio.run(body())


def test_that_nobody_looks_after_the_run_is_told_and_that_somebody_does_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendants, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(unattended, "AFTER", 0.1)

    async def body() -> None:
        async with leading(tmp_path) as leader:
            gone = {"who": "me@here", "beat": 3, "every": 10.0, "left": True}
            leader.run_dir.write_json("attendants/000001.json", gone)
            leader.run_dir.store.write("attendants/000002.json", b"damaged")
            for over in (False, True):
                while not told(leader, over):
                    await asyncio.sleep(0.02)
                leader.run_dir.write_json("attendants/000003.json", {**gone, "left": False})
            assert all(
                one["seconds"] >= 0.1 for over in (False, True) for one in told(leader, over)
            )

    def told(leader: Leader, over: bool) -> list[Event]:
        events = (one for one in read_events(leader.run_dir) if one["event"] == "unattended")
        return [one for one in events if one["over"] is over]

    asyncio.run(body())


def test_a_job_that_is_not_wanted_any_more_is_asked_to_leave(tmp_path: Path) -> None:
    silent: dict[str, Any] = {"suspicion": 300.0, "idle_suspicion": 300.0, "lease_timeout": 999.0}
    first, second = (MemberId(f"1/workerpool{pool}-0", "x") for pool in (0, 1))

    async def body() -> None:
        async with (
            leading(tmp_path, changes=True, **silent) as leader,
            world_of_two(leader, first, second) as (a, b, _),
        ):
            for agent in (a, b):
                await agent.send(started=pb.Started(generation=1, step=0))
            assert create_wanted(leader.run_dir, Wanted(1, jobs=2, leave=(1,), max_workers=2))
            for agent in (a, b):
                assert (await agent.until("pause")).generation == 1
                await agent.send(stopped=pb.Stopped(generation=1, step=3, clean=True))
            for agent in (a, b):
                release = await agent.until("release")
                assert (release.rejoin, release.broken) == (False, True), "it stays out"

    asyncio.run(body())


def test_who_comes_over_from_a_former_leader_is_told_at_once_that_it_is_to_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another look at what is wanted: the stop that the former asked for is under way."""
    monkeypatch.setattr(coordinators, "WANTED_EVERY", 1e9)
    silent: dict[str, Any] = {"suspicion": 300.0, "idle_suspicion": 300.0, "lease_timeout": 999.0}
    first, second = (MemberId(f"1/workerpool{pool}-0", "x") for pool in (0, 1))
    looks: list[object] = []

    def looked(*args: Any) -> Wanted | None:
        looks.append(newest_wanted(*args))
        return Wanted(1, jobs=1, leave=(1,), max_workers=2)

    monkeypatch.setattr(coordinators, "newest_wanted", looked)

    async def body() -> None:
        world = arrange(7, [(first, 1), (second, 1)])
        async with (
            leading(tmp_path, changes=True, **silent) as leader,
            Agent(leader.target) as a,
            Agent(leader.target) as b,
        ):
            while not looks:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)  # it has been taken in, and nobody was there
            for agent, member in ((a, first), (b, second)):
                await agent.hello(member, world)
            for agent in (a, b):
                assert (await agent.until("pause")).generation == 7
        assert len(looks) == 1

    asyncio.run(body())


def test_what_a_run_that_nobody_can_ask_is_asked_is_not_looked_for(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader:
            assert not any("_heed" in repr(task) for task in leader.coordinator._tasks)

    asyncio.run(body())
