"""Who is in a world that may have certain sizes only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.coordinator.member import Member, State
from trainer.coordinator.sizes import choose_of_size
from trainer.protocol.world import MemberId


def members(*slots: int, ranks: dict[int, int] | None = None) -> list[Member]:
    """Members with so many slots each; those with ``ranks`` were in the last world."""
    there = [
        Member(MemberId(f"workerpool1-{i}", "0"), count, State.READY, 0.0, ready_since=float(i))
        for i, count in enumerate(slots)
    ]
    for index, rank in (ranks or {}).items():
        there[index].rank = rank
    return there


def chosen(there: list[Member], *sizes: int) -> list[int]:
    return [there.index(one) for one in choose_of_size(there, sizes)]


def test_the_largest_size_that_can_be_filled_is_taken() -> None:
    assert chosen(members(1, 1, 1), 1, 2, 4) == [0, 1]
    assert chosen(members(8, 8, 8), 8, 16, 32) == [0, 1]


def test_without_enough_there_is_no_world() -> None:
    assert chosen(members(1, 1, 1), 4) == []
    assert chosen(members(8), 4) == [], "members are taken whole"
    assert chosen([], 1) == []


def test_survivors_stay_and_newcomers_are_spares() -> None:
    there = members(1, 1, 1, ranks={1: 0, 2: 1})
    assert chosen(there, 2) == [1, 2]


def test_a_spare_takes_over_the_place_of_one_that_is_gone_at_the_end() -> None:
    there = members(1, 1, 1, ranks={2: 1})
    assert chosen(there, 3) == [2, 0, 1]


def test_who_is_about_to_leave_or_not_ready_is_not_chosen() -> None:
    there = members(1, 1, 1)
    there[0].state, there[1].state = State.DRAINING, State.JOINING
    assert chosen(there, 1, 2) == [2]


def test_others_are_taken_when_the_first_do_not_add_up() -> None:
    assert chosen(members(4, 2, 4), 8) == [0, 2]
    assert chosen(members(3, 2, 2), 4) == [1, 2]


@given(
    st.lists(st.integers(1, 5), max_size=7),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_no_larger_world_would_have_been_possible(slots: list[int], sizes: list[int]) -> None:
    there = members(*slots)
    possible = {0}
    for count in slots:
        possible |= {count + other for other in possible}
    best = max((size for size in sizes if size in possible), default=0)
    found = choose_of_size(there, sizes)
    assert sum(one.slots for one in found) == best
    assert len({one.id for one in found}) == len(found)


def test_a_thousand_machines_are_chosen_from_in_a_moment() -> None:
    assert len(chosen(members(*[8] * 1000), 4096, 8000)) == 1000
