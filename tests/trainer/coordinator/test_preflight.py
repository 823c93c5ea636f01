"""A machine is let in by what it has shown, beside what others of its pool have."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.coordinator.preflight import AGAIN, OTHERS, PART, Preflight, Unfit
from trainer.protocol.signals import Joined, Shown
from trainer.protocol.world import MemberId, World, arrange

GOOD = Shown(20e9, 100e9)


def member(number: int, pool: str = "workerpool1", life: str = "a") -> MemberId:
    return MemberId(f"{pool}-{number}", life)


def joined(one: MemberId, shown: Shown | None = GOOD, world: World | None = None) -> Joined:
    return Joined(one, 1, world, shown=shown)


def with_others(count: int = OTHERS) -> Preflight:
    """So many good machines are let in."""
    preflight = Preflight()
    for number in range(count):
        assert preflight.judge(joined(member(number))) is None
    return preflight


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (
            Shown(11e9, 100e9),
            "its memory moves 11 GB/s, and others of its pool 20",
        ),
        (Shown(20e9, 59e9), "it computes 59 GFLOP/s, and others of its pool 100"),
        (
            Shown(1e9, 1e9),
            "its memory moves 1 GB/s, and others of its pool 20; "
            "it computes 1 GFLOP/s, and others of its pool 100",
        ),
        (
            Shown(failed="a product of matrices is wrong on cpu"),
            "a product of matrices is wrong on cpu",
        ),
    ],
)
def test_who_is_much_slower_or_wrong_is_not_let_in(shown: Shown, reason: str) -> None:
    assert with_others().judge(joined(member(9), shown)) == Unfit(reason, again=True)


def test_who_is_slow_enough_to_be_usual_is() -> None:
    usual = Shown(PART * 20e9, PART * 100e9)
    assert with_others().judge(joined(member(9), usual)) is None


def test_a_few_others_tell_nothing_and_those_of_other_pools_neither() -> None:
    slow = Shown(1e9, 1e9)
    assert with_others(OTHERS - 1).judge(joined(member(9), slow)) is None
    assert with_others().judge(joined(member(9, pool="workerpool2"), slow)) is None
    assert with_others().judge(joined(member(9, pool="2/workerpool1"), slow)) is None


def test_who_was_not_asked_to_show_anything_or_trains_already_is_let_in() -> None:
    assert with_others().judge(joined(member(9), None)) is None
    trains = arrange(1, [(member(9), 1)])
    assert with_others().judge(joined(member(9), Shown(1e9, 1e9), trains)) is None


def test_the_second_time_a_replica_stays_out() -> None:
    preflight, slow = with_others(), Shown(1e9, 1e9)
    for life in range(AGAIN):
        unfit = preflight.judge(joined(member(9, life=str(life)), slow))
        assert unfit is not None and unfit.again
    unfit = preflight.judge(joined(member(9, life="last"), slow))
    assert unfit is not None and not unfit.again
    assert preflight.judge(joined(member(9, life="good"))) is None, "unless it is another machine"


def test_a_replica_is_not_held_against_what_it_was_before() -> None:
    preflight = with_others(OTHERS - 1)
    for life in "abc":
        assert preflight.judge(joined(member(5, life=life))) is None
    assert preflight.judge(joined(member(5, life="d"), Shown(1e9, 1e9))) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(), st.floats(), st.text(max_size=3))))
def test_whatever_machines_show_there_is_an_answer(
    given: list[tuple[int, float, float, str]],
) -> None:
    preflight = Preflight()
    for number, memory, matmul, failed in given:
        unfit = preflight.judge(joined(member(number), Shown(memory, matmul, failed)))
        figures = math.isfinite(memory) and memory > 0 and math.isfinite(matmul) and matmul > 0
        assert unfit is None if figures and not failed and len(given) == 1 else True
        assert unfit is None or unfit.reason
