"""Who is slower than the others is told of, with a reason; who stays so is replaced, if asked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.coordinator.membership_run import A, B, C, D, world
from trainer.coordinator.stragglers import (
    ANSWER,
    EVERY,
    LONG,
    MOST,
    STAYS,
    Straggler,
    Stragglers,
    members_by_rank,
)
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import World

WORLD = world(3, A, B, C, D)
EVEN = (0.1, 0.1, 0.1, 0.1)


class Run:
    """Reports of ten seconds each, one after another."""

    def __init__(self, replace: float | None = None, least: int = 1) -> None:
        self.all = Stragglers(replace, least)
        self.world: World = WORLD
        self.now = 0.0
        self.step = 0

    def report(
        self,
        computed: tuple[float, ...],
        waits: tuple[float, ...] = (),
        samples: tuple[int, ...] = (),
        **other: Any,
    ) -> list[int]:
        """Seconds in a step of every rank. Returns the ranks that are asked about."""
        self.now += 10.0
        self.step += 10
        told: dict[str, Any] = {
            "generation": self.world.generation,
            "step": self.step,
            "count": 10,
            "seconds": 10.0,
            "ranks": range(len(computed)),
            "computed": [10 * one for one in computed],
            "data_wait": [10 * one for one in waits or [0.0] * len(computed)],
            "samples": samples or [80] * len(computed),
            **other,
        }
        return [one.rank for one in self.all.take(self.world, pb.Ranks(**told), self.now)]

    def explain(self, rank: int, reason: str) -> None:
        answer = pb.Examined(generation=self.world.generation, rank=rank, reason=reason)
        self.all.explained(members_by_rank(self.world)[rank], answer)

    def due(self) -> list[Straggler]:
        return self.all.due(self.now)

    def named(self, ratio: float = 2.0, reason: str = "x") -> Straggler:
        """Rank 2 is slow for long enough to be told of."""
        slow = (0.1, 0.1, 0.1 * ratio, 0.1)
        for _ in range(LONG):
            self.report(slow)
        self.explain(2, reason)
        (found,) = self.due()
        return found


@pytest.mark.parametrize("usual, own, asked", [(0.017, 0.0225, [2]), (0.003, 0.006, [])])
def test_short_steps_have_stragglers_and_very_short_ones_none(
    usual: float, own: float, asked: list[int]
) -> None:
    run = Run()
    for _ in range(LONG - 1):
        assert run.report((usual, usual, own, usual)) == []
    assert run.report((usual, usual, own, usual)) == asked


def test_one_that_is_slow_for_long_is_asked_about_once_and_told_of_with_its_reason() -> None:
    run = Run()
    slow = (0.1, 0.1, 0.2, 0.1)
    assert run.report(slow) == []
    assert run.report(slow) == [2]
    assert run.report(slow) == [], "its agent has been asked"
    assert run.due() == []
    run.explain(2, "a signal stops its process")
    (found,) = run.due()
    assert (found.member, found.rank) == (C, 2)
    assert found.figures == {
        "ratio": 2.0,
        "seconds": 0.2,
        "usual": 0.1,
        "reason": "a signal stops its process",
        "over": False,
        "then": None,
    }
    assert run.report(slow) == [] and run.due() == [], "it is told of once"


def test_an_agent_that_does_not_answer_holds_nothing_up() -> None:
    run = Run()
    run.report((0.1, 0.1, 0.2, 0.1))
    run.report((0.1, 0.1, 0.2, 0.1))
    assert run.all.due(run.now + ANSWER - 0.1) == []
    (found,) = run.all.due(run.now + ANSWER)
    assert found.figures["reason"] == "nothing on its machine tells why"


def test_once_it_is_as_fast_as_the_others_that_is_told() -> None:
    run = Run()
    run.named()
    run.report(EVEN)
    assert run.due() == []
    run.report(EVEN)
    (found,) = run.due()
    assert found.over and found.figures["over"] and found.figures["reason"] is None
    assert run.named().rank == 2, "it may come again"


def test_what_lasts_for_one_report_is_nothing() -> None:
    run = Run()
    for _ in range(5):
        assert run.report((0.1, 0.1, 0.5, 0.1)) == []
        assert run.report(EVEN) == []
        assert run.due() == []


@pytest.mark.parametrize("size", [2, 3, 4])
def test_it_is_held_against_the_others_also_in_a_small_world(size: int) -> None:
    run = Run()
    run.world = world(1, *(A, B, C, D)[:size])
    slow = (*[0.1] * (size - 1), 0.15)
    assert run.report(slow) == []
    assert run.report(slow) == [size - 1]


def test_a_worker_alone_is_as_fast_as_it_is() -> None:
    run = Run()
    run.world = world(1, A)
    for _ in range(5):
        assert run.report((9.0,)) == []


def test_who_has_more_samples_may_take_longer_for_it() -> None:
    run = Run()
    for _ in range(5):
        assert run.report((0.1, 0.1, 0.2, 0.1), samples=(10, 10, 20, 10)) == []
    for _ in range(5):  # nor is who has few of them slow, for what each step takes in any case
        assert run.report((0.11, 0.11, 0.1, 0.11), samples=(20, 20, 10, 20)) == []


def test_what_is_as_good_as_nothing_is_not_told_of() -> None:
    run = Run()
    for _ in range(5):
        assert run.report((0.001, 0.001, 0.005, 0.001)) == []


def test_waiting_for_data_is_a_reason_of_its_own() -> None:
    run = Run()
    for _ in range(LONG):
        run.report(EVEN, waits=(0.0, 0.0, 0.4, 0.0))
    run.explain(2, "")
    (found,) = run.due()
    assert found.figures["reason"] == "it waits for its data: 0.4 s more than others a step"


def test_of_a_large_world_the_slowest_are_held_against_the_median() -> None:
    run = Run()
    run.world = world(1, A, B, slots=100)
    slow: dict[str, Any] = {"ranks": [150, 151], "median_computed": 1.0, "median_data_wait": 0.0}
    assert run.report((0.2, 0.1), **slow) == []
    assert run.report((0.2, 0.1), **slow) == [150]
    run.explain(150, "x")
    (found,) = run.due()
    assert found.member == B
    other: dict[str, Any] = {**slow, "ranks": [3, 4]}
    run.report((0.11, 0.1), **other)
    run.report((0.11, 0.1), **other)
    (over,) = run.due()
    assert over.over and over.rank == 150, "it is not among the slowest any more"


def test_one_that_stays_so_is_replaced() -> None:
    run = Run(replace=1.5)
    run.named(ratio=2.0)
    for _ in range(int(STAYS / 10) - LONG - 1):
        run.report((0.1, 0.1, 0.2, 0.1))
        assert run.due() == []
    run.report((0.1, 0.1, 0.2, 0.1))
    (found,) = run.due()
    assert found.leaves and found.figures["then"] == "replica"
    assert found.why_it_leaves == "2.0 times as slow as the others (x)"


def stays(run: Run, ratio: float = 2.0, reports: int = 20) -> list[Straggler]:
    """Rank 2 stays slow; who is to be replaced meanwhile."""
    found = []
    for _ in range(reports):
        for rank in run.report((0.1, 0.1, 0.1 * ratio, 0.1)):
            run.explain(rank, "x")
        found += [one for one in run.due() if one.leaves]
    return found


def test_nobody_is_replaced_who_is_not_that_slow_or_where_nobody_asked_for_it() -> None:
    assert stays(Run(replace=None)) == []
    assert stays(Run(replace=2.5)) == []
    assert stays(Run(replace=1.5, least=4)) == [], "too few would stay"


def test_replacements_keep_a_distance_and_have_an_end() -> None:
    run = Run(replace=1.5)
    at = []
    for _ in range(400):
        if stays(run, reports=1):
            at.append(run.now)
    assert len(at) == MOST
    assert all(later - earlier >= EVERY for earlier, later in pairwise(at))


def test_another_world_begins_anew() -> None:
    run = Run()
    run.report((0.1, 0.1, 0.2, 0.1))
    run.world = world(4, A, B, C, D)
    run.step = 0
    assert run.report((0.1, 0.1, 0.2, 0.1)) == []
    run.world = WORLD
    assert run.due() == []


@given(
    st.lists(st.integers(-3, 9), max_size=5),
    st.lists(st.floats(), max_size=5),
    st.lists(st.floats(), max_size=5),
    st.lists(st.integers(-5, 10**9), max_size=5),
    st.integers(-2, 5),
    st.floats(),
)
def test_whatever_rank_0_says_is_borne(
    ranks: list[int],
    computed: list[float],
    waits: list[float],
    samples: list[int],
    count: int,
    seconds: float,
) -> None:
    run = Run(replace=1.5)
    for step in range(1, 5):
        told = pb.Ranks(generation=3, step=step, count=count, seconds=seconds, ranks=ranks)
        told.computed.extend(computed)
        told.data_wait.extend(waits)
        told.samples.extend(samples)
        for asked in run.all.take(WORLD, told, 10.0 * step):
            assert 0 <= asked.rank < WORLD.size
        for one in run.all.due(10.0 * step + ANSWER):
            assert one.member in WORLD.members and one.figures


def test_an_agent_speaks_for_its_own_ranks() -> None:
    run = Run()
    run.report((0.1, 0.1, 0.2, 0.1))
    run.report((0.1, 0.1, 0.2, 0.1))
    run.all.explained(A, pb.Examined(generation=3, rank=2, reason="a lie"))
    run.all.explained(C, pb.Examined(generation=2, rank=2, reason="of another world"))
    assert run.due() == []
    run.all.explained(C, pb.Examined(generation=3, rank=2, reason="\x1b[2Jx" * 1000))
    (found,) = run.due()
    assert found.figures["reason"].isprintable() and len(found.figures["reason"]) <= 300
