"""An order that is computed place by place is a permutation, and as even as a shuffled one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from trainer.engine.permutation import Permutations, permutation, shuffled

Make = Callable[[int, str], Tensor]
TEN = [1, 5, 9, 6, 3, 2, 8, 4, 7, 0]
LARGE = [778526119043, 534028851051, 963032728241]


def by_place(samples: int, key: str) -> Tensor:
    return permutation(samples, key).take(0, samples)


MAKES = pytest.mark.parametrize("make", [by_place, shuffled])


@given(st.integers(1, 5000), st.text(max_size=5))
def test_each_sample_has_one_place(samples: int, key: str) -> None:
    assert by_place(samples, key).sort().values.tolist() == list(range(samples))


@given(st.integers(1, 2**61), st.data())
def test_a_slice_is_what_its_places_are_one_by_one(samples: int, data: st.DataObject) -> None:
    one = permutation(samples, "seed")
    start = data.draw(st.integers(0, samples - 1))
    stop = min(samples, start + data.draw(st.integers(0, 50)))
    found = one.take(start, stop)
    assert found.dtype == torch.int64
    assert found.tolist() == [int(one.take(at, at + 1)) for at in range(start, stop)]
    assert all(0 <= sample < samples for sample in found.tolist())
    assert len({*found.tolist()}) == stop - start


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.text(max_size=3))
def test_permutations_of_many_stretches_are_each_one_of_its_own(sizes: list[int], key: str) -> None:
    each = np.asarray(sizes)
    begins = np.cumsum(each) - each
    which = np.repeat(np.arange(len(sizes)), each)
    places = np.arange(each.sum()) - begins[which]
    found = Permutations(each, begins, key).take(which, places)
    for number, size in enumerate(sizes):
        assert sorted(found[which == number].tolist()) == list(range(size))
    some = slice(len(which) // 3, len(which) // 2)
    again = Permutations(each, begins, key).take(which[some], places[some])
    assert again.tolist() == found[some].tolist()


def of_many(stretches: int, samples: int) -> NDArray[np.int64]:
    """What comes at each place of many stretches, shape [stretches, samples]."""
    begins = samples * np.arange(stretches)
    which, places = np.divmod(np.arange(stretches * samples), samples)
    each = Permutations(np.full(stretches, samples), begins, "7/0")
    return each.take(which, places).reshape(stretches, samples)


@pytest.mark.parametrize("samples", [3, 4, 5])
def test_of_many_short_stretches_all_orders_are_equally_frequent(samples: int) -> None:
    drawn, orders = 6000, math.factorial(samples)
    counts = Counter(map(tuple, of_many(drawn, samples).tolist()))
    counted = [float(one) for one in counts.values()] + [0.0] * (orders - len(counts))
    assert abs(chi_square(counted, drawn / orders)) < 4


@pytest.mark.parametrize("samples", [16, 63, 100])
def test_of_many_stretches_each_sample_is_equally_often_at_each_place(samples: int) -> None:
    drawn = 3000
    found = of_many(drawn, samples)
    places = np.broadcast_to(np.arange(samples), found.shape)
    counts = np.zeros((samples, samples))
    np.add.at(counts, (places, found), 1)
    freedom = (samples - 1) ** 2
    spread = float(((counts - drawn / samples) ** 2).sum() * samples / drawn)
    assert abs(spread - freedom) / math.sqrt(2 * freedom) < 4


def test_a_permutation_is_the_same_on_every_machine() -> None:
    # A run goes on at another place: these numbers must never change.
    assert by_place(10, "7/0").tolist() == TEN
    assert permutation(10**12, "7/0").take(5 * 10**11, 5 * 10**11 + 3).tolist() == LARGE


def chi_square(counts: list[float], expected: float) -> float:
    """How far counts are from what is expected of each, in standard deviations."""
    freedom = len(counts) - 1
    found = sum((one - expected) ** 2 / expected for one in counts)
    return (found - freedom) / math.sqrt(2 * freedom)


@MAKES
@pytest.mark.parametrize("samples", [3, 4, 5])
def test_of_few_samples_all_orders_are_equally_frequent(make: Make, samples: int) -> None:
    drawn = 6000
    counts = Counter(tuple(make(samples, f"{key}").tolist()) for key in range(drawn))
    orders = math.factorial(samples)
    counted = [float(one) for one in counts.values()] + [0.0] * (orders - len(counts))
    assert abs(chi_square(counted, drawn / orders)) < 4


@MAKES
@pytest.mark.parametrize("samples", [16, 63, 100])
def test_each_sample_is_equally_often_at_each_place(make: Make, samples: int) -> None:
    drawn = 3000
    counts = torch.zeros(samples, samples)
    for key in range(drawn):
        counts[torch.arange(samples), make(samples, f"{key}")] += 1
    # Rows and columns of it have known sums, so that there are fewer degrees of freedom.
    freedom = (samples - 1) ** 2
    found = float(((counts - drawn / samples) ** 2).sum() * samples / drawn)
    assert abs(found - freedom) / math.sqrt(2 * freedom) < 4


@MAKES
@pytest.mark.parametrize("samples", [16, 100])
def test_neighbours_are_any_pair_of_samples(make: Make, samples: int) -> None:
    drawn = 3000
    counts = torch.zeros(samples, samples)
    for key in range(drawn):
        order = make(samples, f"{key}")
        counts[order[:-1], order[1:]] += 1
    pairs = counts[~torch.eye(samples, dtype=torch.bool)].tolist()
    assert abs(chi_square(pairs, drawn * (samples - 1) / len(pairs))) < 4


@MAKES
@pytest.mark.parametrize("samples", [1000, 65_537, 1_000_000])
def test_samples_are_displaced_as_far_as_by_chance(make: Make, samples: int) -> None:
    # |i - p(i)| is n/3 on the average, and has a standard deviation of n/sqrt(18).
    order = make(samples, "1/0").double()
    moved = (order - torch.arange(samples)).abs()
    apart = (float(moved.mean()) - samples / 3) / (samples / math.sqrt(18 * samples))
    assert abs(apart) < 4
    # What was n/64 apart, or next to each other, is not any more; nor does it run up or down.
    for gap in (1, 2, samples // 64, samples // 2):
        correlated = torch.corrcoef(torch.stack([order[:-gap], order[gap:]]))[0, 1]
        assert abs(float(correlated)) * math.sqrt(samples - gap) < 4


@MAKES
def test_few_samples_stay_where_they_are(make: Make) -> None:
    stayed = [int((make(1000, f"{key}") == torch.arange(1000)).sum()) for key in range(1000)]
    assert abs(sum(stayed) / len(stayed) - 1) < 4 / math.sqrt(len(stayed))


def test_orders_of_two_epochs_have_nothing_to_do_with_each_other() -> None:
    orders = torch.stack([by_place(10_000, f"0/{epoch}").double() for epoch in range(8)])
    apart = torch.corrcoef(orders) - torch.eye(8)
    assert float(apart.abs().max()) * 100 < 4.5
