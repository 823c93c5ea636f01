"""Messages and membership's plain values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.protocol import messages, signals
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.wire import (
    addresses_in,
    event_from_message,
    order_to_message,
    save_from_message,
    world_from_message,
    world_to_message,
)
from trainer.protocol.world import MemberId, arrange

A, B = MemberId("workerpool0-0", "a1"), MemberId("workerpool1-0", "b1")
WORLD = arrange(3, [(A, 1), (B, 1)])


@given(st.integers(1, 2**31 - 1), st.lists(st.integers(1, 16), min_size=1, max_size=9))
def test_a_world_comes_back_with_its_addresses(generation: int, counts: list[int]) -> None:
    members = [MemberId(f"workerpool1-{i}", f"{i:x}") for i in range(len(counts))]
    world = arrange(generation, list(zip(members, counts, strict=True)))
    addresses = {member: f"10.0.0.{i}" for i, member in enumerate(members)}
    data = world_to_message(world, addresses).SerializeToString()
    message = pb.World.FromString(data)
    assert world_from_message(message) == world
    assert addresses_in(message) == addresses


def test_an_address_that_nobody_knows_is_empty() -> None:
    assert addresses_in(world_to_message(arrange(1, [(A, 1)]), {})) == {A: ""}


@pytest.mark.parametrize(
    "slots",
    [
        [],
        [pb.Slots(member=str(A), count=0)],
        [pb.Slots(member=str(A), count=-1)],
        [pb.Slots(member="nobody", count=1)],
        [pb.Slots(member=str(A), count=1), pb.Slots(member=str(A), count=1)],
    ],
)
def test_what_is_no_world_is_refused(slots: list[pb.Slots]) -> None:
    with pytest.raises(ValueError):
        world_from_message(pb.World(generation=1, slots=slots))


@pytest.mark.parametrize(
    "body, event",
    [
        ({"ready": pb.Ready()}, signals.Ready(A)),
        (
            {"proved": pb.Proved(peer=str(B), address="10.0.0.1", latency=0.1, bandwidth=1e9)},
            signals.Proved(A, B, "", "10.0.0.1", "", 0.1, 1e9),
        ),
        ({"proved": pb.Proved(peer=str(B), failed="x")}, signals.Proved(A, B, "x")),
        ({"started": pb.Started(generation=2, step=7)}, signals.Started(A, 2, 7, None)),
        ({"started": pb.Started(step=7, idle=0.0)}, signals.Started(A, 0, 7, 0.0)),
        (
            {"progress": pb.Progress(generation=2, step=8, saving=1.5)},
            signals.Progress(A, 2, 8, saving=1.5),
        ),
        (
            {"stopped": pb.Stopped(generation=2, step=8, clean=True, failed="x")},
            signals.Stopped(A, 2, 8, True, "x"),
        ),
        ({"stopped": pb.Stopped(generation=2)}, signals.Stopped(A, 2, 0, False, "")),
        (
            {"stopped": pb.Stopped(generation=2, cause="rollback")},
            signals.Stopped(A, 2, 0, False, "", "rollback"),
        ),
        (
            {"stopped": pb.Stopped(generation=2, cause="leader")},  # not for an agent to say
            signals.Stopped(A, 2, 0, False, "", "break"),
        ),
        ({"crashed": pb.Crashed(reason="x", spare=True)}, signals.Crashed(A, "x", True)),
        (
            {"crashed": pb.Crashed(reason="x", failure=pb.Failure(kind="crash", samples=[4]))},
            signals.Crashed(A, "x", False, signals.Failure("crash", 0, 0, "", False, (4,))),
        ),
        (
            {"task_failed": pb.TaskFailed(kind="machine", generation=2)},
            signals.TaskFailed(A, 0, 0, "", "machine", False, 2),
        ),
        ({"drain": pb.Drain(reason="SIGTERM", deadline=15)}, signals.Drain(A, "SIGTERM", 15)),
        (
            {
                "done": pb.Done(
                    generation=2, step=9, metrics={"loss": 0.5}, unsaved="x", by_all=True, rank=3
                )
            },
            signals.Done(A, 2, 9, {"loss": 0.5}, "x", by_all=True, rank=3),
        ),
        (
            {"task_failed": pb.TaskFailed(rank=1, step=3, reason="x")},
            signals.TaskFailed(A, 1, 3, "x"),
        ),
        (
            {"rank_failed": pb.RankFailed(generation=2, rank=1, code=-9, seconds=3.5, reason="x")},
            signals.RankFailed(A, 2, 1, -9, 3.5, "x"),
        ),
        ({"row": pb.Row(generation=2)}, None),
        ({"start": pb.Start(generation=2, address="10.0.0.1", port=15001)}, None),
    ],
)
def test_what_an_agent_says_means(body: dict[str, Any], event: signals.Event | None) -> None:
    data = pb.FromAgent(**body).SerializeToString()
    assert event_from_message(A, pb.FromAgent.FromString(data)) == event


@pytest.mark.parametrize("deadline", [9.5, None])
def test_a_share_of_a_checkpoint_comes_to_the_worker(deadline: float | None) -> None:
    save = signals.Save(A, 1, 3, math.inf if deadline is None else deadline)
    message = pb.FromCoordinator.FromString(order_to_message(save).SerializeToString())
    until = math.inf if deadline is None else 109.5
    assert save_from_message(message.save, now=100.0) == messages.Save(1, 3, until)


@pytest.mark.parametrize(
    "order, message",
    [
        (signals.Pause(WORLD), pb.FromCoordinator(pause=pb.Pause(generation=3))),
        (
            signals.Pause(WORLD, 12.0),
            pb.FromCoordinator(pause=pb.Pause(generation=3, grace=12.0)),
        ),
        (signals.Abort(WORLD), pb.FromCoordinator(abort=pb.Abort(generation=3))),
        (signals.Replace(A), pb.FromCoordinator(replace=pb.Replace())),
    ],
)
def test_orders_name_the_world_that_they_are_for(order: Any, message: pb.FromCoordinator) -> None:
    assert order_to_message(order) == message


@pytest.mark.parametrize("reason", ["drained", "silent for 2.5 s", ""])
@pytest.mark.parametrize("rejoin", [True, False])
def test_who_may_come_back_does_not_hang_on_the_wording_of_the_reason(
    reason: str, rejoin: bool
) -> None:
    release = order_to_message(signals.Release(A, reason, rejoin)).release
    assert (release.reason, release.rejoin) == (reason, rejoin)


@pytest.mark.parametrize("message", [pb.FromAgent(), pb.FromAgent(hello=pb.Hello(member=str(B)))])
def test_what_means_nothing_is_refused(message: pb.FromAgent) -> None:
    with pytest.raises(ValueError, match="an agent sent"):
        event_from_message(A, message)
