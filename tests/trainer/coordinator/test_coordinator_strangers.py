"""Who has shown the run's certificate and token, and then does not behave like an agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.trainer.coordinator.test_coordinator import (
    Agent,
    assert_undisturbed,
    leading,
    world_of_two,
)
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.wire import SLOTS_LIMIT, slots_of, world_from_message


def test_a_stream_without_a_hello_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.coordinator.coordinator.HELLO_WAIT", 0.2)

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
