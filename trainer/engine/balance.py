"""Shares of the batch that follow the workers' speed: an A100 beside an H100.

The mathematics stays what it is: the shares sum to the global batch, each sample is
used once, gradients are summed and divided by B. Only who computes which sample
changes, so all ranks must split alike in every step. Each rank measures its own speed;
the speeds are told to all in one collective every ``EXCHANGE_EVERY`` steps, and the
shares follow from what was told by whole-number arithmetic (``trainer.engine.data.shares``).

A step takes as long as its slowest rank. With shares in proportion to speed all ranks
take the same time: that is the harmonic ideal, B divided by the sum of the speeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

EXCHANGE_EVERY = 10  # steps
WORTH_IT = 0.03  # the part of a step's time that new shares must save, or the old ones stay
NEWEST = 0.5  # the weight of what was measured at last against what was known before


class Speed:
    """One rank's own speed: samples per second of its computation, without any waiting."""

    def __init__(self) -> None:
        self.value = 0.0  # 0 when it is not known
        self._samples = 0
        self._seconds = 0.0

    def measured(self, samples: int, seconds: float) -> None:
        """Takes in one step's share and how long it took."""
        self._samples += samples
        self._seconds += seconds

    def settle(self) -> float:
        """Folds what was measured since the last call into the value, and returns that."""
        if self._samples and self._seconds > 0:
            now = self._samples / self._seconds
            self.value = now if not self.value else NEWEST * now + (1 - NEWEST) * self.value
        self._samples = 0
        self._seconds = 0.0
        return self.value


class Balance:
    """The weights by which all ranks of one world split each batch.

    Args:
        speeds: of every rank, as the world began with them; 0 where it is not known.
        follow: whether weights follow the speeds at all; else all are equal.
    """

    def __init__(self, speeds: Sequence[float], follow: bool) -> None:
        self._follow = follow
        self._steps = 0
        self.weights: list[float] = [1.0] * len(speeds)
        if follow:
            self.weights = weights_of(speeds)

    def due(self) -> bool:
        """Counts a step, on every rank alike; whether the speeds are to be told after it."""
        self._steps += 1
        return self._follow and len(self.weights) > 1 and self._steps % EXCHANGE_EVERY == 0

    def told(self, speeds: Sequence[float]) -> None:
        """Takes the speeds of all ranks: the weights change if that is worth it."""
        new = weights_of(speeds)
        if step_time(new, speeds) < (1 - WORTH_IT) * step_time(self.weights, speeds):
            self.weights = new


def weights_of(speeds: Sequence[float]) -> list[float]:
    """The weight of each rank; one of unknown speed counts as an average one."""
    known = [speed for speed in speeds if speed > 0]
    if not known:
        return [1.0] * len(speeds)
    mean = fmean(known)
    return [speed if speed > 0 else mean for speed in speeds]


def step_time(weights: Sequence[float], speeds: Sequence[float]) -> float:
    """The time of a step that splits by ``weights``, in units of a batch's samples."""
    total = sum(weights)
    return max(
        weight / total / speed for weight, speed in zip(weights, weights_of(speeds), strict=True)
    )
