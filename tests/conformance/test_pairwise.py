"""Every pair of values that fits meets in some row, and nothing that clashes does."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.pairwise import covering, pairs, pairs_of

SIZES = st.lists(st.integers(1, 5), min_size=2, max_size=6)


def factors(sizes: list[int]) -> dict[str, range]:
    return {chr(ord("a") + i): range(size) for i, size in enumerate(sizes)}


@given(SIZES)
def test_every_pair_meets(sizes: list[int]) -> None:
    rows = covering(factors(sizes))
    assert set.union(*map(pairs_of, rows)) == pairs(factors(sizes))


@given(SIZES)
def test_there_are_no_more_rows_than_pairs_and_as_many_as_the_two_largest_need(
    sizes: list[int],
) -> None:
    least = math.prod(sorted(sizes)[-2:])
    assert least <= len(covering(factors(sizes))) <= len(pairs(factors(sizes)))


def test_most_rows_are_saved() -> None:
    assert len(covering(factors([4] * 8))) < 40  # of 65,536


@given(st.data(), st.lists(st.integers(3, 5), min_size=3, max_size=5))
def test_what_clashes_never_meets_and_everything_else_does(
    data: st.DataObject, sizes: list[int]
) -> None:
    grid = factors(sizes)
    # One clash between neighbours leaves every value something that fits.
    clashes = {
        frozenset({(one, data.draw(st.sampled_from(grid[one]))), (other, 0)})
        for one, other in pairwise(grid)
    }
    met = set.union(*map(pairs_of, covering(grid, clashes)))
    assert met == pairs(grid, clashes)
    assert not met & clashes


def test_rows_are_the_same_every_time() -> None:
    assert covering(factors([3, 4, 2, 5])) == covering(factors([3, 4, 2, 5]))


def test_a_value_that_fits_beside_nothing_is_told() -> None:
    clashes = {frozenset({("a", 0), ("b", one)}) for one in range(2)}
    with pytest.raises(ValueError, match="no value of b fits beside"):
        covering(factors([2, 2, 2]), clashes)
