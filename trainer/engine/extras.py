"""The numbers that travel with a step's gradients, in the buffer of the last bucket.

    head | metrics | statistics | norms of the ranks | their times | what rank 0 tells | …

All of it is summed. What a rank tells of itself has a place of its own, in which all others have
zeros: the norm of its gradients; what it has spent its time on; and numbers of 16 bits, whose sums
are exact in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import lshift
from typing import NamedTuple

from trainer.engine.digest import MASK
from trainer.engine.replicas import FIELDS, Told
from trainer.engine.timing import NUMBERS, Timing

NO_TIME = Timing()
_LIMBS = 4  # of 16 bits, for each number of 64
_SHIFTS = (48, 32, 16, 0)
_ROW = len(FIELDS) * _LIMBS
_SAMPLES = FIELDS.index("samples") * _LIMBS  # the last field, and the one that is no rank's alike


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
        norms: of each rank's own gradients; not finite where these, or its loss, are not.
        times: the numbers of each rank's Timing; none in a world of one.
        rows: what each rank has told, as it travels.
    """

    head: Head
    metrics: list[float]
    statistics: list[float]
    norms: list[float]
    times: list[float]
    rows: list[list[float]]

    @property
    def told(self) -> list[Told]:
        """What each rank has told."""
        return [Told(*_numbers(row)) for row in self.rows]

    def alike(self, samples: int) -> bool:
        """Whether ``compare`` finds no difference in what the ranks have told, without numbers.

        Args:
            samples: the digest of the ids of all samples of the step.
        """
        columns = [*zip(*self.rows, strict=True)]
        if max(map(len, map(set, columns[:_SAMPLES]))) > 1:
            return False
        limbs = map(int, map(sum, columns[_SAMPLES:]))
        return bool(sum(map(lshift, limbs, _SHIFTS)) & MASK == samples)

    @property
    def nonfinite(self) -> list[int]:
        """The ranks whose own loss or gradients are not finite, ascending."""
        return [rank for rank, norm in enumerate(self.norms) if not math.isfinite(norm)]


@dataclass(frozen=True)
class Extras:
    """Where which number is.

    Attributes:
        metrics: how many there are.
        statistics: how many there are.
        size: how many ranks tell of themselves; 0 in a world of one, which has a norm alone.
    """

    metrics: int
    statistics: int
    size: int

    @cached_property
    def length(self) -> int:
        """How many numbers travel."""
        return self._rows + self.size * _ROW

    def norm_at(self, rank: int) -> int:
        """Where the norm of a rank's gradients is."""
        return self._norms + rank

    def written(
        self,
        head: Head,
        metrics: Sequence[float],
        statistics: Sequence[float],
        rank: int,
        told: Told,
        timing: Timing = NO_TIME,
    ) -> list[float]:
        """One rank's ``length`` numbers; its norm is 0."""
        numbers = [*head, *metrics, *statistics, *[0.0] * (self.size or 1)]
        if self.size:
            own = [float(v >> shift & 0xFFFF) for v in told for shift in _SHIFTS]
            for mine in ([*timing], own):
                others = [0.0] * len(mine)
                numbers += others * rank + mine + others * (self.size - 1 - rank)
        return numbers

    def read(self, values: list[float]) -> Read:
        """What ``written`` wrote, summed."""
        rows = [values[start : start + _ROW] for start in range(self._rows, self.length, _ROW)]
        of = _HEAD + self.metrics
        return Read(
            Head(*values[:_HEAD]),
            values[_HEAD:of],
            values[of : self._norms],
            values[self._norms : self._times],
            values[self._times : self._rows],
            rows,
        )

    @cached_property
    def _norms(self) -> int:
        return _HEAD + self.metrics + self.statistics

    @cached_property
    def _times(self) -> int:
        return self._norms + (self.size or 1)

    @cached_property
    def _rows(self) -> int:
        return self._times + self.size * NUMBERS


def _numbers(limbs: list[float]) -> list[int]:
    whole = [int(limb) for limb in limbs]
    return [
        whole[i] << 48 | whole[i + 1] << 32 | whole[i + 2] << 16 | whole[i + 3]
        for i in range(0, len(whole), _LIMBS)
    ]
