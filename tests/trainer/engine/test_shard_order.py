"""The order of shards: each sample once, each shard on few ranks, and all as even as by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.engine.data import Order, shares
from trainer.engine.setup import Setup, differences
from trainer.engine.shard_order import ShardOrder

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any)
EVEN = [100] * 64  # samples of each shard
SIXTEEN = [4, 5, 11, 10, 1, 2, 9, 14, 3, 0, 13, 8, 6, 7, 12, 15]
LARGE = [790183501, 755351363, 755948434]


class Shelf:
    """A data set of shards.

    Args:
        sizes: of them.
        length: what it says that it has.
    """

    def __init__(self, sizes: list[int], length: int | None = None) -> None:
        self.shard_sizes = sizes
        self._length = sum(sizes) if length is None else length

    def __len__(self) -> int:
        return self._length


@given(SIZES, st.integers(1, 40), st.integers(1, 5), st.integers(1, 700), st.text(max_size=3))
def test_each_sample_has_one_place(
    sizes: list[int], lanes: int, block: int, batch: int, key: str
) -> None:
    found = ShardOrder(sizes, lanes, block).take(key, batch, 0, sum(sizes))
    assert found.dtype == torch.int64
    assert found.sort().values.tolist() == list(range(sum(sizes)))


@given(SIZES, st.integers(1, 40), st.integers(1, 5), st.integers(1, 700), st.data())
def test_a_slice_is_what_its_places_are_one_by_one(
    sizes: list[int], lanes: int, block: int, batch: int, data: st.DataObject
) -> None:
    one = ShardOrder(sizes, lanes, block)
    start = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(start, sum(sizes)))
    whole = one.take("key", batch, 0, sum(sizes)).tolist()
    assert one.take("key", batch, start, stop).tolist() == whole[start:stop]
    assert one.take("key", batch, start, start + 1).tolist() == whole[start : start + 1]


def test_an_order_is_the_same_on_every_machine() -> None:
    # A run goes on at another place: these numbers must never change.
    order = ShardOrder([4, 3, 0, 5, 4], lanes=2, block=2)
    assert order.take("7/0", 4, 0, 16).tolist() == SIXTEEN
    large = ShardOrder([10**6] * 1000)
    assert large.take("7/0", 4096, 5 * 10**8, 5 * 10**8 + 3).tolist() == LARGE


def read_by(order: Order, ranks: int) -> list[set[int]]:
    """The shards, of EVEN ones, that each rank reads in an epoch."""
    found: list[set[int]] = [set() for _ in range(ranks)]
    for step in range(order.steps_per_epoch):
        start, stop = order.bounds(step)
        samples = order.take(0, start, stop)
        parts = samples.split(shares(stop - start, [1.0] * ranks))
        for rank, part in enumerate(parts):
            found[rank].update((part // EVEN[0]).tolist())
    return found


@pytest.mark.parametrize("ranks, borders", [(1, 0), (2, 0), (3, 2), (4, 0), (8, 0), (16, 0)])
def test_each_shard_is_read_by_one_rank(ranks: int, borders: int) -> None:
    order = Order.of(Shelf(EVEN), 64, seed=3)
    assert order.shards is not None
    assert sum(map(len, read_by(order, ranks))) <= 64 + 2 * borders


def test_without_an_order_of_shards_each_rank_reads_all_of_them() -> None:
    by_place = Order(len(Shelf(EVEN)), 64, seed=3)
    assert sum(map(len, read_by(by_place, 8))) > 60 * 8


def test_in_use_at_a_time_is_a_block_for_each_lane() -> None:
    order = ShardOrder(EVEN, lanes=8, block=2)
    samples = order.take("0/0", 32, 0, sum(EVEN))
    at_once = [len({*(part // 100).tolist()}) for part in samples.split(10 * 32)]
    assert max(at_once) <= 8 * 2 * 2, "where one block follows another"
    assert min(len({*(part // 100).tolist()}) for part in samples.split(32)) >= 8


def by_shard(key: int) -> Tensor:
    return ShardOrder([5] * 12, lanes=3, block=2).take(f"{key}", 6, 0, 60)


def by_chance(key: int) -> Tensor:
    return torch.randperm(60, generator=torch.Generator().manual_seed(key))


MAKES = pytest.mark.parametrize("make", [by_shard, by_chance])


@MAKES
def test_each_sample_is_equally_often_in_each_place(make: object) -> None:
    assert callable(make)
    drawn = 400
    counts = torch.zeros(60, 60)
    for key in range(drawn):
        counts[torch.arange(60), make(key)] += 1
    freedom = 59**2
    found = float(((counts - drawn / 60) ** 2).sum() * 60 / drawn)
    assert abs(found - freedom) / math.sqrt(2 * freedom) < 4


@MAKES
def test_two_shards_are_together_in_a_batch_as_often_as_any_others(make: object) -> None:
    assert callable(make)
    drawn = 300
    counts = torch.zeros(12, 12)
    for key in range(drawn):
        shards = sorted({*(make(key)[:6] // 5).tolist()})
        counts[np.ix_(shards, shards)] += 1
    pairs = counts[np.triu_indices(12, 1)]
    spread = float(pairs.std() / pairs.mean().sqrt())
    assert spread < 1.5, "1 where each pair comes by chance"


def test_samples_that_follow_each_other_do_not_in_the_order() -> None:
    order = Order.of(Shelf(EVEN), 64, seed=1)
    places = torch.argsort(order.permutation(0))
    apart = (places[1:] - places[:-1]).abs()
    assert int((apart == 1).sum()) < 200  # of 6400; among the samples of a lane in a batch
    assert not torch.equal(order.permutation(0), order.permutation(1))


def test_only_a_whole_data_set_of_shards_has_their_order() -> None:
    assert ShardOrder.of(Shelf([3, 4])) is not None
    assert ShardOrder.of(Shelf([3, 4], length=5)) is None, "a part of it"
    assert ShardOrder.of([1, 2, 3]) is None
    assert Order.of(7, 2, seed=0).shards is None
    with pytest.raises(ValueError, match=r"lanes=0, block=2: write at least 1"):
        ShardOrder([1], lanes=0)


def setup_of(sizes: list[int], lanes: int = 4) -> Setup:
    order = ShardOrder(sizes, lanes)
    made = Setup(samples=sum(sizes), batch=2, seed=0, unit=0, version=2, shards=order.told)
    return Setup.of_checkpoint({"parts": {}}, made.to_about())


def test_a_checkpoint_knows_the_order_of_its_shards() -> None:
    then = setup_of([4, 6])
    assert then.shards.endswith("4 lanes, blocks of 2")
    assert differences(then, setup_of([4, 6]), 3).data == ()
    (found,) = differences(then, setup_of([6, 4]), 3).data
    assert found == f"the data's order was that of {then.shards} and is that of " + (
        setup_of([6, 4]).shards
    )
    assert differences(then, setup_of([4, 6], lanes=3), 3).data != ()
    # An epoch has 5 steps: between two of them any order may follow.
    assert differences(then, setup_of([6, 4]), 5).data == ()
    older = Setup(samples=10, batch=2, seed=0, unit=0, version=2)
    (found,) = differences(older, then, 3).data
    assert found.startswith("the data's order was that of one by one, and not by shard and is")
