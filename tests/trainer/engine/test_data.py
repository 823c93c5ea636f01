"""Every sample of an epoch exactly once, whatever the world does meanwhile."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.data import BY_PLACE, WHOLE, Order, share, shares
from trainer.engine.dealing import AT_ONCE, Dealer
from trainer.engine.digest import digest_of_numbers

SIZES = st.integers(1, 200)
PERMUTATIONS = {WHOLE: [8, 3, 1, 9, 4, 0, 7, 2, 6, 5], BY_PLACE: [1, 5, 9, 6, 3, 2, 8, 4, 7, 0]}


@st.composite
def orders(draw: st.DrawFn) -> Order:
    seed, version = draw(st.integers(-(2**63), 2**63)), draw(st.sampled_from([WHOLE, BY_PLACE]))
    return Order(draw(SIZES), draw(SIZES), seed, version=version)


@given(orders(), st.integers(0, 3), st.data())
def test_any_sequence_of_worlds_takes_each_sample_of_an_epoch_once(
    order: Order, epoch: int, data: st.DataObject
) -> None:
    taken: Counter[int] = Counter()
    permutation = order.permutation(epoch)
    first = epoch * order.steps_per_epoch
    for step in range(first, first + order.steps_per_epoch):
        assert order.epoch_of(step) == epoch
        world_size = data.draw(st.integers(1, 9))
        for rank in range(world_size):
            low, high = share(*order.bounds(step), rank, [1.0] * world_size)
            taken.update(permutation[low:high].tolist())
    assert taken == Counter(range(order.samples))


@given(orders(), st.integers(0, 1000))
def test_a_step_takes_the_global_batch_and_only_the_last_of_an_epoch_less(
    order: Order, step: int
) -> None:
    start, stop = order.bounds(step)
    last = order.epoch_of(step) != order.epoch_of(step + 1)
    rest = order.samples - (order.steps_per_epoch - 1) * order.batch
    assert stop - start == (rest if last else order.batch)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 600))
def test_shares_are_adjacent_cover_the_slice_and_differ_by_at_most_one(
    start: int, count: int, size: int
) -> None:
    parts = [share(start, start + count, rank, [1.0] * size) for rank in range(size)]
    assert parts[0][0] == start
    assert parts[-1][1] == start + count
    assert all(one[1] == next_[0] for one, next_ in itertools.pairwise(parts))
    lengths = [high - low for low, high in parts]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(0, 2000), st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=64))
def test_weighted_shares_sum_up_and_follow_the_weights(count: int, weights: list[float]) -> None:
    parts = shares(count, weights)
    assert sum(parts) == count
    assert min(parts) >= (1 if count >= len(weights) else 0)
    room = max(0, count - len(weights)) if count >= len(weights) else count
    base = 1 if count >= len(weights) else 0
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - base - room * weight / sum(weights)) <= 1 + room * len(weights) * 1e-6


@pytest.mark.parametrize(
    "count, weights, parts",
    [
        (64, [3.0, 1.0], [48, 16]),
        (64, [300.0, 100.0], [48, 16]),
        (10, [1.0, 1.0, 1.0], [3, 3, 4]),
        (2, [9.0, 1.0, 1.0], [2, 0, 0]),
        (4, [1e9, 1.0, 1.0], [2, 1, 1]),
    ],
)
def test_weighted_shares_are_the_same_on_every_machine(
    count: int, weights: list[float], parts: list[int]
) -> None:
    assert shares(count, weights) == parts


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        shares(8, [1.0, weight])


@given(orders(), st.integers(0, 10**6))
def test_a_permutation_depends_on_nothing_but_seed_and_epoch(order: Order, epoch: int) -> None:
    one = order.permutation(epoch)
    torch.rand(1)  # whatever else draws from torch's generator
    assert torch.equal(one, order.permutation(epoch))
    assert sorted(one.tolist()) == list(range(order.samples))


@pytest.mark.parametrize("version", PERMUTATIONS)
def test_an_order_is_the_same_on_every_machine(version: int) -> None:
    # A run goes on at another place, and with another Swell: these numbers must never change.
    order = Order(10, 4, seed=7, version=version)
    assert order.permutation(0).tolist() == PERMUTATIONS[version]


@given(orders(), st.integers(0, 3), st.lists(st.integers(0, 10**4), max_size=20))
def test_what_is_dealt_is_the_step_s_part_of_the_order(
    order: Order, epoch: int, places: list[int]
) -> None:
    dealer, permutation = Dealer(order), order.permutation(epoch)
    for place in places:  # in any sequence
        step = epoch * order.steps_per_epoch + place % order.steps_per_epoch
        dealt = [dealer.deal(step, rank, [1, 1], False, order.version) for rank in range(2)]
        whole = permutation[slice(*order.bounds(step))]
        assert torch.equal(torch.cat([one.indices for one in dealt]), whole)
        assert {one.samples for one in dealt} == {digest_of_numbers(whole)}


@pytest.mark.parametrize("version", [WHOLE, BY_PLACE])
def test_what_is_computed_together_leaves_no_seam(version: int) -> None:
    order = Order(3 * AT_ONCE + 5, 1000, 0, 8, version)
    dealer, permutation = Dealer(order), order.permutation(1)
    for step in range(order.steps_per_epoch, 2 * order.steps_per_epoch):
        dealt = dealer.deal(step, 0, [1], True, version)
        whole = permutation[slice(*order.bounds(step))]
        assert dealt.parts is not None
        assert torch.equal(torch.cat(dealt.parts), whole) and torch.equal(dealt.indices, whole)
        assert dealt.samples == digest_of_numbers(whole)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    distinct = {
        tuple(Order(50, 8, seed).permutation(epoch).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(distinct) == 16


@pytest.mark.parametrize("samples, batch", [(0, 8), (-1, 8), (8, 0), (8, -3)])
def test_an_empty_data_set_or_batch_is_refused(samples: int, batch: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Order(samples, batch, 0)
