"""What each rank computes of a step: its share of the batch, whole or by units."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.engine.data import NEWEST, Order, share
from trainer.engine.digest import Prefixes
from trainer.engine.units import cuts

AT_ONCE = 2**13  # samples whose order is computed together, or those of a step if it has more


class Share(NamedTuple):
    """One rank's share of a step; see ``trainer.engine.plan.Plan``, which has the same."""

    epoch: int
    ends_epoch: bool
    batch_size: int
    samples: int
    indices: Tensor
    parts: tuple[Tensor, ...] | None = None
    first_unit: int = 0
    units: int = 0


@dataclass(frozen=True)
class Stretch:
    """Some samples of an epoch that follow each other.

    Attributes:
        epoch: which epoch's.
        version: of their order.
        start: where in the epoch they begin.
        samples: their ids, int64, shape [n].
        prefixes: the digests of slices of them.
    """

    epoch: int
    version: int
    start: int
    samples: Tensor
    prefixes: Prefixes

    def holds(self, order: Order, epoch: int, start: int, stop: int) -> bool:
        """Whether the samples [start, stop) of an epoch are among them."""
        place = self.start <= start and stop <= self.start + len(self.samples)
        return place and (self.epoch, self.version) == (epoch, order.version)


class Dealer:
    """Deals the samples of each step.

    Args:
        order: which samples a step takes; None without a data set.
    """

    def __init__(self, order: Order | None) -> None:
        self._order = order
        self._none = torch.empty(0, dtype=torch.int64, device="cpu")
        self._stretch = Stretch(-1, 0, 0, self._none, Prefixes(self._none))
        self._asked: tuple[int, int, tuple[float, ...]] | None = None
        self._shared = (0, 0)

    def deal(
        self, step: int, rank: int, weights: Sequence[float], by_units: bool, version: int = NEWEST
    ) -> Share:
        """Returns what a rank computes of the step that follows ``step`` completed ones.

        Args:
            weights: of all ranks.
            by_units: whether shares are whole units.
            version: of the order.
        """
        if self._order is None:
            return Share(0, False, 0, 0, self._none)
        if self._order.version != version:
            self._order = replace(self._order, version=version)
        order = self._order
        epoch = order.epoch_of(step)
        start, stop = order.bounds(step)
        stretch = self._stretch_with(order, epoch, start, stop)
        first, last = start - stretch.start, stop - stretch.start
        places = cuts(first, last, order.unit) if by_units else range(first, last + 1)
        count = len(places) - 1
        low, high = self._share(count, rank, tuple(weights))
        parts = None
        if by_units:
            own = itertools.pairwise(places[low : high + 1])
            parts = tuple(stretch.samples[one:other] for one, other in own)
        return Share(
            epoch=epoch,
            ends_epoch=order.epoch_of(step + 1) != epoch,
            batch_size=stop - start,
            samples=stretch.prefixes.digest(first, last),
            indices=stretch.samples[places[low] : places[high]],
            parts=parts,
            first_unit=low if by_units else 0,
            units=count if by_units else 0,
        )

    def _stretch_with(self, order: Order, epoch: int, start: int, stop: int) -> Stretch:
        if not self._stretch.holds(order, epoch, start, stop):
            stop = max(stop, min(start + AT_ONCE, order.samples))
            samples = order.take(epoch, start, stop)
            self._stretch = Stretch(epoch, order.version, start, samples, Prefixes(samples))
        return self._stretch

    def _share(self, count: int, rank: int, weights: tuple[float, ...]) -> tuple[int, int]:
        """As ``share`` of ``count`` from 0; mostly that of the step before."""
        asked = count, rank, weights
        if asked != self._asked:
            self._asked, self._shared = asked, share(0, count, rank, weights)
        return self._shared
