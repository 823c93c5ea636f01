"""Which samples a step takes: pure arithmetic that does not know the history of the world.

Step k of epoch e takes samples [kB, (k+1)B) of a permutation fixed by (seed, e). The
ranks of the world split that slice; another world splits it differently, but takes
the same slice. So the position in the data *is* the number of steps completed, and
each sample of an epoch is used exactly once however often the world changes.

How samples are permuted has a version, which is part of the state: a run that was begun with an
older one goes on in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from trainer.engine.permutation import permutation, shuffled
from trainer.engine.shard_order import ShardOrder

WHOLE, BY_PLACE = 1, 2  # versions of the order: see trainer.engine.permutation
NEWEST = BY_PLACE
ENDLESS = 2**53  # samples of what has no length: as many as float64 counts
_UNIT = 1_000_000  # the weight of the fastest rank


@dataclass(frozen=True)
class Order:
    """The order of samples of a whole run.

    Attributes:
        samples: size of the data set; ENDLESS where it has none, and comes as it is.
        batch: the global batch B: samples of one step over all ranks.
        seed: fixes the permutations.
        unit: the samples of a unit (see trainer.engine.units); 0 without units.
        version: of how samples are permuted.
        shards: how they are where the data set is of shards; None elsewhere.
    """

    samples: int
    batch: int
    seed: int
    unit: int = 0
    version: int = NEWEST
    shards: ShardOrder | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch < 1:
            raise ValueError(
                f"a data set of {self.samples} samples and a global batch of {self.batch}: "
                "both must be at least 1"
            )
        if self.unit < 0:
            raise ValueError(f"a unit of {self.unit} samples: write at least 1, or 0 for none")

    @classmethod
    def of(cls, dataset: Sized | int | object, batch: int, seed: int, unit: int = 0) -> Order:
        """The order of a data set, or of so many samples. Raises ValueError as the class does."""
        if isinstance(dataset, int):
            return cls(dataset, batch, seed, unit)
        if is_endless(dataset):
            return cls(ENDLESS, batch, seed, unit)
        samples = len(dataset)  # type: ignore[arg-type]
        return cls(samples, batch, seed, unit, shards=ShardOrder.of(dataset))

    @property
    def endless(self) -> bool:
        """Whether there is no last sample, and samples come in the order of their places."""
        return self.samples == ENDLESS

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; the last one may take fewer samples than B."""
        return -(-self.samples // self.batch)

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of the step that follows ``step`` completed steps."""
        return step // self.steps_per_epoch

    def length(self, step: int) -> int:
        """How many samples there are; without an end, those up to the step after ``step``."""
        return self.bounds(step)[1] if self.endless else self.samples

    def take(self, epoch: int, start: int, stop: int) -> Tensor:
        """The samples [start, stop) in the order of epoch ``epoch``: int64, shape [n]."""
        if self.endless:
            return torch.arange(start, stop, device="cpu")
        key = f"{self.seed}/{epoch}"
        if self.shards is not None:
            return self.shards.take(key, self.batch, start, stop)
        if self.version == WHOLE:
            return shuffled(self.samples, key)[start:stop]
        return permutation(self.samples, key).take(start, stop)

    def permutation(self, epoch: int) -> Tensor:
        """The whole order of epoch ``epoch``: int64, shape [samples]."""
        return self.take(epoch, 0, self.samples)

    def bounds(self, step: int) -> tuple[int, int]:
        """The slice [start, stop) of its epoch's permutation that the next step takes."""
        start = (step % self.steps_per_epoch) * self.batch
        return start, min(start + self.batch, self.samples)

    def place(self, step: int) -> dict[str, int]:
        """Where in the data the step after ``step`` begins, as a checkpoint says it."""
        return {"epoch": self.epoch_of(step), "data_position": self.bounds(step)[0]}


def is_endless(dataset: object) -> bool:
    """Whether data has no length: it can be iterated alone, or has marks (trainer.loaders.mark)."""
    iterated = not isinstance(dataset, Sized) and not hasattr(type(dataset), "__getitem__")
    return iterated or isinstance(dataset, IterableDataset) or hasattr(dataset, "marks")


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """Splits ``count`` samples over ranks, in proportion to their ``weights``.

    Exact and deterministic: the parts sum to ``count``, and every machine computes the
    same. Equal weights give parts that differ by at most 1. As long as there are enough
    samples, every rank gets one: what takes no part could not show its speed.

    Raises ValueError for weights that are not positive and finite.
    """
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be positive: {list(weights)}")
    # In whole numbers, so that no rounding depends on the order of additions.
    largest = max(weights)
    units = [max(1, round(weight / largest * _UNIT)) for weight in weights]
    spare = count - len(weights)
    least = 1 if spare >= 0 else 0
    rest, total = (spare if least else count), sum(units)
    parts = [least + rest * unit // total for unit in units]
    # What is left by rounding down goes to those who lost most by it.
    by_loss = sorted(range(len(units)), key=lambda rank: (rest * units[rank] % total, rank))
    for rank in by_loss[len(units) - (count - sum(parts)) :]:
        parts[rank] += 1
    return parts


def share(start: int, stop: int, rank: int, weights: Sequence[float]) -> tuple[int, int]:
    """The part of [start, stop) that ``rank`` takes, when ranks have these weights."""
    parts = shares(stop - start, weights)
    low = start + sum(parts[:rank])
    return low, low + parts[rank]
