"""The numbers that travel with a step's gradients, in the buffer of the last bucket.

    head | metrics | statistics | whose are not finite | what rank 0 tells | what rank 1 tells | …

All of it is summed. What a rank tells of itself has a place of its own, in which all others have
zeros, as numbers of 16 bits: their sums are exact in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.engine.replicas import FIELDS, Told

_LIMBS = 4  # of 16 bits, for each number of 64
_ROW = len(FIELDS) * _LIMBS


class Head(NamedTuple):
    """The numbers that every step has; each rank's own, or their sums.

    Attributes:
        pause: ranks that are asked to leave the world after this step.
        stop: ranks whose program has ended the loop before this step.
        save: 1 if a checkpoint is due after it.
        digest: 1 if the digest of the state is due after it.
        late: ranks whose gradients were not all in time.
        learned: ranks that have learned what must be known before the step.
        samples: samples of the step.
        counted: what the loss is a mean over, if the program counts it; else 0.
        uncounted: ranks that have samples in the step, and have counted nothing.
        witness, magnitude: of the gradients (see trainer.engine.gradients).
    """

    pause: float = 0.0
    stop: float = 0.0
    save: float = 0.0
    digest: float = 0.0
    late: float = 0.0
    learned: float = 0.0
    samples: float = 0.0
    counted: float = 0.0
    uncounted: float = 0.0
    witness: float = 0.0
    magnitude: float = 0.0


_HEAD = len(Head._fields)


class Read(NamedTuple):
    """All that was summed.

    Attributes:
        head, metrics, statistics: the sums.
        nonfinite: the ranks whose own loss or gradients are not finite, ascending.
        told: by each rank.
    """

    head: Head
    metrics: list[float]
    statistics: list[float]
    nonfinite: list[int]
    told: list[Told]


@dataclass(frozen=True)
class Extras:
    """Where which number is.

    Attributes:
        metrics: how many there are.
        statistics: how many there are.
        size: how many ranks tell of themselves; 0 in a world of one.
    """

    metrics: int
    statistics: int
    size: int

    @property
    def length(self) -> int:
        """How many numbers travel."""
        return self._flags + self.size * (1 + _ROW)

    def flag(self, rank: int) -> int | None:
        """Where a rank adds 1 if what it brings is not finite; None in a world of one."""
        return self._flags + rank if self.size else None

    def written(
        self,
        head: Head,
        metrics: Sequence[float],
        statistics: Sequence[float],
        rank: int,
        told: Told,
    ) -> Tensor:
        """One rank's numbers: float64, shape [length], on the CPU; its flag is not set."""
        numbers = [*head, *metrics, *statistics, *[0.0] * self.size]
        if self.size:
            own = [float(v >> shift & 0xFFFF) for v in told for shift in (48, 32, 16, 0)]
            others = [0.0] * _ROW
            numbers += others * rank + own + others * (self.size - 1 - rank)
        return torch.tensor(numbers, dtype=torch.float64, device="cpu")

    def read(self, summed: Tensor) -> Read:
        """What ``written`` wrote, summed."""
        values = summed.tolist()
        first = self._flags + self.size
        rows = [
            Told(*_numbers(values[start : start + _ROW]))
            for start in range(first, self.length, _ROW)
        ]
        of = _HEAD + self.metrics
        return Read(
            Head(*values[:_HEAD]),
            values[_HEAD:of],
            values[of : self._flags],
            [rank for rank, flag in enumerate(values[self._flags : first]) if flag > 0.5],
            rows,
        )

    @property
    def _flags(self) -> int:
        return _HEAD + self.metrics + self.statistics


def _numbers(limbs: list[float]) -> list[int]:
    whole = [int(limb) for limb in limbs]
    return [
        whole[i] << 48 | whole[i + 1] << 32 | whole[i + 2] << 16 | whole[i + 3]
        for i in range(0, len(whole), _LIMBS)
    ]
