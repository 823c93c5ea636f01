"""Ranks are Horovod's, and members keep their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.protocol.world import MemberId, World, arrange


def world_of(*slots: int) -> World:
    return arrange(1, [(MemberId(f"vm-{i}", "0"), count) for i, count in enumerate(slots)])


@given(st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_places_are_those_of_horovods_own_arithmetic(slots: list[int]) -> None:
    hosts = pytest.importorskip("horovod.runner.common.util.hosts")
    world = world_of(*slots)
    theirs = hosts.get_host_assignments(
        [hosts.HostInfo(str(member), count) for member, count in world.slots], sum(slots)
    )
    assert [
        (
            str(place.member),
            place.rank,
            place.size,
            place.local_rank,
            place.local_size,
            place.cross_rank,
            place.cross_size,
        )
        for place in world.places
    ] == [
        (
            info.hostname,
            info.rank,
            info.size,
            info.local_rank,
            info.local_size,
            info.cross_rank,
            info.cross_size,
        )
        for info in theirs
    ]


def test_ranks_run_through_the_members_and_within_each_through_its_slots() -> None:
    world = world_of(2, 1, 2)
    assert [(place.member.replica, place.local_rank) for place in world.places] == [
        ("vm-0", 0),
        ("vm-0", 1),
        ("vm-1", 0),
        ("vm-2", 0),
        ("vm-2", 1),
    ]
    assert [place.rank for place in world.places] == [0, 1, 2, 3, 4]
    # By local rank: three VMs have a worker 0, two have a worker 1.
    assert [(place.cross_rank, place.cross_size) for place in world.places] == [
        (0, 3),
        (0, 2),
        (1, 3),
        (2, 3),
        (1, 2),
    ]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_a_members_places_can_be_had_without_the_others(slots: list[int]) -> None:
    world = world_of(*slots)
    each = [place for member in world.members for place in world.places_of(member)]
    assert tuple(each) == world.places
    assert world.places_of(MemberId("nobody", "0")) == []


def test_the_places_of_a_member_are_in_order_of_local_rank() -> None:
    world = world_of(1, 3)
    second = world.members[1]
    assert [(one.rank, one.local_rank) for one in world.places_of(second)] == [
        (1, 0),
        (2, 1),
        (3, 2),
    ]
    assert world.slots_of(second) == 3
    assert world.size == 4


NAMES = st.text(st.characters(exclude_characters="#"), min_size=1)


@given(NAMES, st.text(min_size=1))
def test_a_member_id_survives_being_written_and_read(replica: str, incarnation: str) -> None:
    member = MemberId(replica, incarnation)
    assert MemberId.parse(str(member)) == member


@pytest.mark.parametrize("text", ["", "workerpool1-0", "#9f3a", "workerpool1-0#"])
def test_what_is_no_member_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not REPLICA#INCARNATION"):
        MemberId.parse(text)


@pytest.mark.parametrize("slots", [[], [("a", 0)], [("a", 1), ("a", 1)]])
def test_what_is_no_world_is_refused(slots: list[tuple[str, int]]) -> None:
    with pytest.raises(ValueError, match="not a world"):
        arrange(1, [(MemberId(name, "0"), count) for name, count in slots])
