"""What a data set is like: equal where its samples are, and another where they are not."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)

from tests.trainer.data.sources import Counting
from trainer.data import Mixture, Stream
from trainer.engine.generators import seed_batch
from trainer.loaders import likeness as module
from trainer.loaders.likeness import UNKNOWN, Likeness, likeness_of


def like(*data: Any) -> Likeness:
    return likeness_of(data, lambda index: seed_batch(0, index, 0))


@dataclass
class Pair:
    """A sample of a class of one's own."""

    name: str
    value: float


def floats(noise: float = 0.0) -> list[Any]:
    drawn = torch.Generator().manual_seed(4)
    return [torch.randn(100, generator=drawn, dtype=torch.float64) * (1 + noise) for _ in range(9)]


def split(seed: int) -> Any:
    whole: Any = list(range(50))
    parts: Any = random_split(whole, [40, 10], torch.Generator().manual_seed(seed))
    return parts[0]


_subset: Any = Subset
_concat: Any = ConcatDataset
DATA: list[Callable[[int], Any]] = [
    lambda other: [(n + other, "a") for n in range(9)],
    lambda other: [f"line {n + other}" for n in range(9)],
    lambda other: [{"bytes": bytes([n + other])} for n in range(9)],
    lambda other: [Pair("a", n + other) for n in range(9)],
    lambda other: [torch.tensor([n + other]) for n in range(9)],
    lambda other: [np.full((2, 2), n + other, np.float32) for n in range(9)],
    lambda other: [*floats()[other:], *floats()[:other]],
    lambda other: TensorDataset(torch.arange(9) + torch.arange(9).eq(5) * other),
    lambda other: np.where(np.arange(9) == 5, other, 7),
    lambda other: _subset(range(100), [*range(3), 3 + other, *range(4, 9)]),
    lambda other: _concat([torch.zeros(3), torch.arange(4) + other]),
    lambda other: Mixture({"a": range(9), "b": [n + other for n in range(9)]}, {"a": 1, "b": 1}),
    split,
]


@pytest.mark.parametrize("data", DATA)
def test_it_is_another_where_samples_are(data: Callable[[int], Any]) -> None:
    same, again, other = like(data(0)), like(data(0)), like(data(1))
    assert UNKNOWN not in (same, other)
    assert same == again and not same.differs(again)
    assert same.differs(other) and other.differs(same)
    assert like(None, data(0)).differs(like(None, data(1)))


def test_processors_may_round_in_their_own_ways() -> None:
    exact, rounded, scaled = like(floats()), like(floats(1e-7)), like(floats(1e-3))
    assert exact != rounded and not exact.differs(rounded)
    assert exact.differs(scaled)
    assert like([float("nan")] * 5) != UNKNOWN


def test_of_a_path_the_name_counts() -> None:
    here, there = [{"path": f"/tmp/{at}/cat.jpg"} for at in ("one", "another")]
    assert not like([here]).differs(like([there]))
    assert like([here]).differs(like([{"path": "/tmp/one/dog.jpg"}]))


class Augmented:
    """Draws from the generators that are seeded, or from one of its own."""

    def __init__(self, own: bool) -> None:
        self.chance: Any = random.SystemRandom() if own else random

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> float:
        return index + float(self.chance.random())


def test_what_is_drawn_anew_each_time_is_not_known_and_what_is_seeded_is() -> None:
    assert not like(Augmented(own=True)).exact
    assert like(Augmented(own=False)) == like(Augmented(own=False)) != UNKNOWN


class Missing(Augmented):
    def __getitem__(self, index: int) -> float:
        raise FileNotFoundError(f"{index}.jpg")


@pytest.mark.parametrize("data", [Missing(own=False), [object()] * 3, 5])
def test_what_cannot_be_told_is_not_known(data: Any) -> None:
    known = like([0] * (len(data) if hasattr(data, "__len__") else 3))
    assert not like(data).exact
    assert not like(data).differs(replace(known, chosen=like(data).chosen))
    assert not known.differs(replace(like(data), chosen=0))


def parted(seed: int, length: int = 9) -> Any:
    whole: Any = Augmented(own=True)
    parts: Any = random_split(whole, [6, 3], torch.Generator().manual_seed(seed))
    return [parts[0], range(length)]


def test_what_is_chosen_of_samples_that_cannot_be_told_is_known() -> None:
    assert not like(*parted(1)).differs(like(*parted(1)))
    assert like(*parted(1)).differs(like(*parted(2)))
    assert like(*parted(1)).differs(like(*parted(1, length=8)))
    assert like(_concat(parted(1))).differs(like(_concat(parted(2))))


class Drawn:
    """Makes something else of each sample each time, by a generator that nobody seeds."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index), random.SystemRandom().random()  # type: ignore[misc]


class DrawnSubset(Drawn, Subset[Any]):
    def __getitems__(self, indices: list[int]) -> Any:
        return [self[index] for index in indices]


class DrawnConcat(Drawn, ConcatDataset[Any]):
    pass


class DrawnTensors(Drawn, TensorDataset):
    pass


class Wrapped(Dataset[Any]):
    """Has what it is made of as attributes."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts, itself=self)

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> float:
        return random.SystemRandom().random()


def drawn_subset(other: int) -> Any:
    return DrawnSubset(_subset(range(100), range(50)), [*range(8), 8 + other])


@pytest.mark.parametrize(
    "data",
    [
        drawn_subset,
        lambda other: DrawnConcat([drawn_subset(0), drawn_subset(other)]),
        lambda other: StackDataset(drawn_subset(0), drawn_subset(other)),
        lambda other: StackDataset(image=drawn_subset(0), text=drawn_subset(other)),
        lambda other: DrawnTensors(torch.randn(9, 2), torch.arange(9) + other),
        lambda other: Wrapped(base=drawn_subset(other), name="a"),
        lambda other: Wrapped(base=Wrapped(base=drawn_subset(other)), lines=["a"]),
        lambda other: Wrapped(parts=[drawn_subset(0), drawn_subset(other)]),
        lambda other: Wrapped(parts={"a": drawn_subset(other)}),
        lambda other: Wrapped(base=Wrapped(samples_identity=f"version {other}")),
    ],
)
def test_what_classes_of_ones_own_have_chosen_is_known(data: Callable[[int], Any]) -> None:
    assert not like(data(0)).exact, "its samples are others each time"
    assert not like(data(0)).differs(like(data(0)))
    assert like(data(0)).differs(like(data(1)))


def test_a_class_of_ones_own_that_is_no_wrapper_after_all_is_known_by_its_length() -> None:
    class Empty(Subset[Any]):
        def __init__(self) -> None:
            self.own = 5

        def __len__(self) -> int:
            return self.own

        def __getitem__(self, index: Any) -> Any:
            return random.SystemRandom().random()

        def __getitems__(self, indices: list[int]) -> Any:
            return [self[index] for index in indices]

    assert not like(Empty()).differs(like(Empty()))
    assert like(Empty()).differs(like(range(6)))


class Doubled(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        return [2 * one[index] for one in self.tensors]


def test_of_tensors_all_count_whatever_is_made_of_them() -> None:
    ones = [Doubled(torch.arange(9.0) + torch.arange(9).eq(4) * other) for other in (0, 0, 1)]
    assert not like(ones[0]).differs(like(ones[1]))
    assert like(ones[0]).exact and like(ones[0]).differs(like(ones[2])), "the fifth is not read"
    assert like(ones[0]).differs(like(TensorDataset(torch.arange(9.0))))


def test_it_does_not_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 0.0)
    assert not like([1, 2, 3]).exact
    assert like([1, 2, 3]).differs(like([1, 2]))


def test_a_stream_is_compared_as_it_is_read() -> None:
    read = Stream(Counting(9))
    assert like(read, [1, 2]).differs(like(read, [1, 3]))
    assert not like(read).differs(like(copy.copy(read)))
    assert like(read) != UNKNOWN
