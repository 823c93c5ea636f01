"""Who is let in, and who is turned away: strangers, and those who do not behave like agents."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.trainer.coordinator.leader import (
    TOKEN,
    A,
    Agent,
    B,
    Leader,
    assert_undisturbed,
    leading,
    train,
    with_leader,
    world_of_two,
)
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.wire import SLOTS_LIMIT, slots_of, world_from_message
from trainer.protocol.world import arrange
from trainer.rundir import attempts
from trainer.rundir.attempts import record_name
from trainer.rundir.formats import PROTOCOL

TOKENS = {"none": None, "empty": "", "wrong": "wrong", "longer": TOKEN + "x", "cut": TOKEN[:-1]}


@pytest.mark.parametrize("token", TOKENS.values(), ids=list(TOKENS))
def test_without_the_runs_token_nobody_gets_in(tmp_path: Path, token: str | None) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target, token) as stranger:
                assert await stranger.ended() is grpc.StatusCode.UNAUTHENTICATED
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


@pytest.mark.parametrize("record", [{"left": "no machines"}, {"state": "FAILED"}])
def test_an_attempt_that_was_given_up_is_not_let_in_again(
    tmp_path: Path, record: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ASK_AGAIN", 0.0)

    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            leader.run_dir.write_json(record_name(1), {"state": "RUNNING", **record})
            async with Agent(leader.target) as stranger:
                assert await stranger.ended() is grpc.StatusCode.UNAUTHENTICATED
            leader.run_dir.write_json(record_name(1), {"state": "RUNNING"})
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


def _hello(**fields: Any) -> pb.FromAgent:
    return pb.FromAgent(hello=pb.Hello(protocol=PROTOCOL, **fields))


GARBAGE = {
    "another message": pb.FromAgent(ready=pb.Ready()),
    "nothing": pb.FromAgent(),
    "no name": _hello(),
    "half a name": _hello(member="workerpool1-0"),
    "no world": _hello(member="x#1", world=pb.World(generation=3)),
    "bytes": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("message", GARBAGE.values(), ids=GARBAGE)
def test_what_begins_with_garbage_is_refused(tmp_path: Path, message: Any) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target) as stranger:
                await stranger.write(message)
                assert await stranger.ended() in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.INTERNAL,
                )
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


def test_a_stream_without_a_hello_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.coordinator.server.HELLO_WAIT", 0.2)

    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target) as silent:
                assert await silent.ended() is grpc.StatusCode.INVALID_ARGUMENT
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


def test_headers_that_are_too_long_are_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target, "x" * 100_000) as stranger:
                with pytest.raises((grpc.aio.AioRpcError, AssertionError)):
                    await stranger.until("form")
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())


@pytest.mark.parametrize(("said", "believed"), [(-5, 1), (0, 1), (8, 8), (2**31 - 1, SLOTS_LIMIT)])
def test_no_member_has_more_workers_than_a_machine_can_have(said: int, believed: int) -> None:
    assert slots_of(pb.Hello(slots=said)) == believed
    if said > SLOTS_LIMIT:
        with pytest.raises(ValueError, match="more than"):
            world_from_message(pb.World(generation=1, slots=[pb.Slots(member="a#1", count=said)]))


@with_leader
async def test_an_agent_that_talks_nonsense_later_leaves(leader: Leader) -> None:
    async with Agent(leader.target) as agent:
        await agent.hello(A)
        await agent.write(pb.FromAgent())
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
            await a.send(done=pb.Done(generation=1, step=9))
            assert (await again.until("finish")).state == "succeeded"
    await leader.coordinator.stop()
    assert "loss" not in leader.events()


@pytest.mark.parametrize(
    ("protocol", "older"), [(0, "agent"), (PROTOCOL + 1, "coordinator"), (2**31 - 1, "coordinator")]
)
def test_an_agent_of_another_protocol_is_turned_away_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: int, older: str
) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            async with Agent(leader.target) as stranger:
                # The rest of what a newer one says may be anything.
                await stranger.send(hello=pb.Hello(member="pool7/3", protocol=protocol))
                assert await stranger.ended() is grpc.StatusCode.UNIMPLEMENTED
            await assert_undisturbed(leader, a, b)

    asyncio.run(body())
    assert (
        f"'pool7/3' is turned away: the agent speaks protocol {protocol}, and the coordinator "
        f"{PROTOCOL}: update the {older}'s image (container.image); "
        "all pools of a run need one version of Swell"
    ) in caplog.text


@with_leader
async def test_an_agent_that_means_another_leader_is_sent_away(leader: Leader) -> None:
    async with Agent(leader.target) as agent:
        await agent.write(_hello(member=str(A), slots=1, address="127.0.0.1", term=2))
        assert await agent.ended() is grpc.StatusCode.FAILED_PRECONDITION
