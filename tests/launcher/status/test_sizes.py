"""How many workers trained when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.status.sizes import Size, joined, means

SIZES = [Size(0.0, 10.0, 4), Size(15.0, 20.0, 2)]


def test_means_weigh_by_time() -> None:
    assert means(SIZES, 0.0, 20.0, 4) == [4.0, 4.0, 0.0, 2.0]
    assert means(SIZES, 0.0, 20.0, 1) == [(4 * 10 + 2 * 5) / 20]
    assert means(SIZES, 8.0, 12.0, 2) == [4.0, 0.0]
    assert means([], 0.0, 0.0, 3) == [0.0] * 3


@given(st.integers(1, 60), st.floats(1.0, 1e6))
def test_no_worker_is_counted_twice(count: int, end: float) -> None:
    found = means(SIZES, 0.0, end, count)
    inside = sum(max(0.0, min(end, it.until) - min(end, it.since)) * it.workers for it in SIZES)
    assert sum(found) * end / count == pytest.approx(inside)


def test_worlds_that_are_drawn_as_one_are_no_larger_than_the_least() -> None:
    assert list(joined(SIZES, 2)) == SIZES
    assert list(joined(SIZES, 1)) == [Size(0.0, 20.0, 2)]
