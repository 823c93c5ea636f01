"""Shares that follow speeds: the slowest rank decides, so all are to take the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.balance import EXCHANGE_EVERY, Balance, Speed, step_time, weights_of
from trainer.engine.data import shares

speeds = st.lists(st.floats(0.1, 1e6), min_size=2, max_size=32)


def slowest(parts: list[int], of: list[float]) -> float:
    return max(part / speed for part, speed in zip(parts, of, strict=True))


@given(speeds, st.integers(1, 4000))
def test_shares_by_speed_are_within_one_sample_of_the_harmonic_ideal(
    of: list[float], count: int
) -> None:
    balance = Balance(of, follow=True)
    parts = shares(count, balance.weights)
    assert sum(parts) == count
    ideal = count / sum(of)
    # Each rank gets one sample at least, and a whole number of them.
    assert slowest(parts, of) <= ideal * (1 + 1e-5 * len(of)) + 2 / min(of)


@pytest.mark.parametrize("follow", [False, True])
def test_it_is_off_unless_asked_for(follow: bool) -> None:
    balance = Balance([1.0, 3.0], follow)
    assert shares(8, balance.weights) == ([2, 6] if follow else [4, 4])
    assert any(balance.due() for _ in range(2 * EXCHANGE_EVERY)) == follow


def test_speeds_are_told_after_the_same_steps_everywhere_and_never_alone() -> None:
    one, other = (Balance([1.0, 1.0], follow=True) for _ in range(2))
    when = [one.due() for _ in range(35)]
    assert when == [other.due() for _ in range(35)]
    assert sum(when) == 35 // EXCHANGE_EVERY
    assert not any(Balance([1.0], follow=True).due() for _ in range(35))


def test_a_rank_of_unknown_speed_counts_as_an_average_one() -> None:
    assert weights_of([0.0, 0.0]) == [1.0, 1.0]
    assert weights_of([2.0, 0.0, 4.0]) == [2.0, 3.0, 4.0]


def test_weights_stay_when_a_change_is_not_worth_it() -> None:
    balance = Balance([1.0, 1.0], follow=True)
    balance.told([1.0, 1.02])
    assert balance.weights == [1.0, 1.0]
    balance.told([1.0, 2.0])
    assert balance.weights == [1.0, 2.0]
    assert step_time([1.0, 2.0], [1.0, 2.0]) == pytest.approx(1 / 3)


@given(st.floats(0.5, 20.0), st.floats(0.0, 0.05))
def test_shares_settle_even_where_a_step_has_a_fixed_cost(ratio: float, fixed: float) -> None:
    per_sample = [0.001, 0.001 * ratio]
    meters = [Speed(), Speed()]
    balance = Balance([0.0, 0.0], follow=True)

    def times() -> list[float]:
        parts = shares(256, balance.weights)
        took = [fixed + part * cost for part, cost in zip(parts, per_sample, strict=True)]
        for meter, part, seconds in zip(meters, parts, took, strict=True):
            meter.measured(part, seconds)
        return took

    for _ in range(12):
        times()
        balance.told([meter.settle() for meter in meters])
    total = 256 / sum(1 / cost for cost in per_sample)
    assert max(times()) <= (fixed + total) * 1.08 + max(per_sample) * 2


def test_nothing_measured_leaves_the_speed_as_it_was() -> None:
    speed = Speed()
    assert speed.settle() == 0.0
    speed.measured(10, 2.0)
    assert speed.settle() == 5.0
    speed.measured(0, 1.0)
    assert speed.settle() == 5.0
