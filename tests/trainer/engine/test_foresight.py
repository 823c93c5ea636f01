"""A data set of shards learns which of them its rank needs soon, in the order of their use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trainer.engine.foresight import AT_ONCE, SHARDS, Foresight
from trainer.engine.plan import Plan

EACH = 10  # samples of a shard


class Told:
    """A data set that notes what it is told."""

    fetches = True

    def __init__(self) -> None:
        self.told: list[list[int]] = []
        self.closed = False

    def shards_of(self, indices: Any) -> Any:
        return np.unique(np.asarray(indices) // EACH)

    def expect(self, shards: Sequence[int]) -> None:
        self.told.append([*shards])

    def close(self) -> None:
        self.closed = True


def plan(number: int, total: int = 1000, shift: int = 0) -> Plan:
    """A step that takes samples of the shards ``number`` and ``number + 1``."""
    first = EACH * (number + shift) + EACH // 2
    return Plan(
        number=number,
        total=total,
        epoch=0,
        indices=torch.arange(first, first + EACH),
        samples=0,
        batch_size=EACH,
        ends_epoch=False,
        rank=0,
        size=1,
        device=torch.device("cpu"),
    )


def test_more_is_known_with_each_step_until_it_is_enough() -> None:
    data = Told()
    one = Foresight(data)
    one.begin(plan(1), "world", plan)
    assert data.told == [[1, 2, 3, 4, 5]]
    one.begin(plan(2), "world", plan)
    assert data.told[-1] == [2, 3, 4, 5, 6, 7, 8, 9]
    for number in range(3, 200):
        one.begin(plan(number), "world", plan)
    assert data.told[-1][0] == 199
    assert SHARDS <= len(data.told[-1]) <= SHARDS + 1
    one.close()
    assert data.closed


def test_in_another_world_it_begins_anew() -> None:
    data = Told()
    one = Foresight(data)
    one.begin(plan(1), "world", plan)
    one.begin(plan(2, shift=50), "another", lambda number: plan(number, shift=50))
    assert data.told[-1] == [52, 53, 54, 55, 56]
    one.begin(plan(9), "another", plan)  # other steps were taken meanwhile
    assert data.told[-1] == [9, 10, 11, 12, 13]


def test_nothing_is_told_where_nothing_changes() -> None:
    data = Told()
    one = Foresight(data)
    for number in (1, 2, 3):
        one.begin(plan(number, total=3), "world", lambda number: plan(number, total=3))
    assert data.told == [[1, 2, 3, 4], [2, 3, 4], [3, 4]], "beyond the last step is nothing"
    assert AT_ONCE > 3, "all of it is known in the first step"


def test_a_data_set_that_fetches_nothing_is_told_nothing() -> None:
    assert Foresight.of([1, 2, 3]) is None
    assert Foresight.of(None) is None
    assert Foresight.of(Told()) is not None
    told = Told()
    told.fetches = False
    assert Foresight.of(told) is None
