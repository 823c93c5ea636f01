"""Ranks that do not loop over the same do not train together, and who holds the state goes on."""

from __future__ import annotations

import pytest
from horovod.common.exceptions import HorovodInternalError

from trainer.engine.agreement import Agreement, Holding, Loop
from trainer.engine.mistake import Mistake
from trainer.loaders.likeness import Likeness

LOOP = Loop(samples=100, batch=10)
ONE, NEAR, OTHER, UNKNOWN = (
    LOOP.over(Likeness(*about)) for about in [(5, 1.0), (5, 1.0 + 1e-7), (6, 1.0), (0, 0.0)]
)


def verdicts(*held: tuple[Loop, bool]) -> list[str]:
    """What becomes of each rank, in the first letter: it goes on, gets a Mistake, or waits."""
    agreed = Agreement(tuple(Holding(7 if holds else 0, holds, loop=loop) for loop, holds in held))
    found = []
    for rank in range(len(held)):
        try:
            agreed.require_alike(rank)
            found.append("goes on")
        except Mistake:
            found.append("mistake")
        except HorovodInternalError:
            found.append("another world")
    return found


def test_other_samples_in_a_first_world_are_a_mistake_of_all() -> None:
    assert verdicts((ONE, False), (NEAR, False), (UNKNOWN, False)) == ["goes on"] * 3
    assert verdicts((ONE, False), (OTHER, False), (ONE, False)) == ["mistake"] * 3
    agreed = Agreement((Holding(0, False, loop=ONE), Holding(0, False, loop=OTHER)))
    with pytest.raises(Mistake) as raised:
        agreed.require_alike(0)
    assert raised.value.id == "SW5122"
    assert str(raised.value) == (
        "the workers do not loop over the same: by rank, they have other samples on ranks 0 and 1, "
        "in as many and in that order; let all read the same files, and fix what is random by a "
        "seed"
    )


def test_other_choices_of_samples_that_nobody_can_compare_are_a_mistake() -> None:
    one, other = (LOOP.over(Likeness(chosen=chosen)) for chosen in (8, 9))
    assert verdicts((one, False), (other, False)) == ["mistake"] * 2
    assert verdicts((one, False), (one, False), (ONE, False)) == ["goes on"] * 3


def test_a_newcomer_with_other_samples_is_alone_at_fault() -> None:
    assert verdicts((OTHER, False), (ONE, True), (ONE, True), (ONE, False)) == [
        "mistake",
        "another world",
        "another world",
        "another world",
    ]


def test_newcomers_that_differ_from_each_other_leave_those_alone_who_hold_the_state() -> None:
    assert verdicts((UNKNOWN, True), (ONE, False), (OTHER, False)) == [
        "another world",
        "mistake",
        "mistake",
    ]
    shorter = Loop(samples=99, batch=10)
    assert verdicts((shorter, False), (ONE, True)) == ["mistake", "another world"]
