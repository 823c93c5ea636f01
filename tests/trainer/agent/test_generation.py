"""One generation as an agent of two workers has a part in it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

import pytest

from tests.trainer.ranks import PATIENCE, gloo_address
from trainer.agent.generation import Generation
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.messages import Started, Stopped
from trainer.protocol.wire import world_to_message
from trainer.protocol.world import MemberId, arrange

OTHER, HERE = MemberId("workerpool0-0", "a"), MemberId("workerpool1-0", "b")
WORLD = arrange(7, [(OTHER, 1), (HERE, 2)])
FORM = pb.Form(
    world=world_to_message(WORLD, {OTHER: "10.0.0.1", HERE: "10.0.0.2"}), gloo_timeout=30.0
)


@pytest.fixture
def generation() -> Generation:
    return Generation(FORM, HERE, lambda row: None)


def started(step: int, idle: float | None = None) -> Started:
    return Started(7, rank=1, step=step, idle=idle, bytes=0, seconds=0.1)


def begun(use: Callable[[Generation, list[pb.Row]], Awaitable[None]]) -> None:
    """Uses a generation whose rendezvous is served, with the rows that it has sent."""

    async def live() -> None:
        rows: list[pb.Row] = []
        generation = await Generation.begin(FORM, HERE, rows.append)
        try:
            await use(generation, rows)
        finally:
            await generation.close()

    asyncio.run(asyncio.wait_for(live(), PATIENCE))


def test_each_worker_is_ordered_to_its_place_and_to_the_rendezvous_of_this_vm() -> None:
    async def use(generation: Generation, rows: list[pb.Row]) -> None:
        orders = [generation.order(place, term=3, interface="lo") for place in generation.places]
        assert {(order.generation, order.term) for order in orders} == {(7, 3)}
        assert {order.addresses for order in orders} == {("10.0.0.1", "10.0.0.2")}
        assert [order.env["HOROVOD_RANK"] for order in orders] == ["1", "2"]
        assert orders[0].env["HOROVOD_GLOO_RENDEZVOUS_PORT"] != "0", "it is served"

    begun(use)


def test_a_row_goes_up_and_up_again_until_all_have_started() -> None:
    async def use(generation: Generation, rows: list[pb.Row]) -> None:
        order = generation.order(generation.places[0], term=1, interface="")
        port = int(order.env["HOROVOD_GLOO_RENDEZVOUS_PORT"])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        row = gloo_address(ipaddress.ip_address("127.0.0.1"), 1) * 2
        writer.write(b"POST /global/1/3 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(row) + row)
        while not rows:
            await asyncio.sleep(0.01)
        assert (rows[0].generation, rows[0].scope, rows[0].size) == (7, "global", 3)
        generation.note_started(0, started(4))
        generation.send_rows_again()
        assert rows == [rows[0]] * 2
        generation.note_started(1, started(4))
        generation.send_rows_again()
        assert len(rows) == 2
        writer.close()

    begun(use)


def test_it_has_started_when_all_its_workers_have(generation: Generation) -> None:
    generation.note_started(0, started(4, idle=0.5))
    assert generation.started() is None
    generation.note_started(1, started(4, idle=None))
    assert generation.started() == pb.Started(generation=7, step=4, idle=0.5)


def test_whoever_is_new_was_not_idle(generation: Generation) -> None:
    for slot in (0, 1):
        generation.note_started(slot, started(4))
    assert generation.started() == pb.Started(generation=7, step=4)


@pytest.mark.parametrize(
    ("starts", "steps", "just"),
    [([], [4, 4], False), ([4], [4, 4], False), ([4, 4], [4, 4], True), ([4, 4], [4, 5], False)],
)
def test_it_has_just_started_until_a_step_is_completed(
    generation: Generation, starts: list[int], steps: list[int], just: bool
) -> None:
    for slot, step in enumerate(starts):
        generation.note_started(slot, started(step))
    assert generation.just_started(steps) is just


def test_it_has_stopped_when_all_its_workers_have(generation: Generation) -> None:
    assert not generation.half_left
    generation.note_stopped(0, Stopped(7, step=6, clean=True, failed=""))
    assert generation.stopped() is None and generation.half_left
    generation.note_stopped(1, Stopped(7, step=5, clean=False, failed="a peer was lost"))
    assert not generation.half_left
    assert generation.stopped() == pb.Stopped(
        generation=7, step=6, clean=True, failed="a peer was lost"
    )


def test_what_is_held_is_saved_by_the_worker_that_holds_it(generation: Generation) -> None:
    assert generation.holder == 0
    generation.note_crashed(0, step=6)
    generation.note_stopped(1, Stopped(7, step=5, clean=True, failed="", cause="rollback"))
    assert generation.holder == 1
    assert generation.stopped() == pb.Stopped(
        generation=7, step=5, clean=True, failed="crashed", cause="rollback"
    )


def test_whoever_has_died_has_stopped_and_holds_nothing(generation: Generation) -> None:
    for slot in (0, 1):
        generation.note_crashed(slot, step=5)
    assert generation.stopped() == pb.Stopped(generation=7, step=5, clean=False, failed="crashed")


def test_a_new_leader_hears_of_the_world_as_the_last_one_formed_it(generation: Generation) -> None:
    assert generation.to_message() == FORM.world


def test_what_is_no_world_is_refused() -> None:
    with pytest.raises(ValueError, match="not a world"):
        asyncio.run(Generation.begin(pb.Form(), HERE, lambda row: None))
