"""What each rank computes of a step: its share of the batch, whole or by units."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.engine.data import Order, share
from trainer.engine.digest import Prefixes
from trainer.engine.units import cuts


@dataclass(frozen=True)
class Share:
    """One rank's share of a step; see ``trainer.engine.plan.Plan``, which has the same."""

    epoch: int
    ends_epoch: bool
    batch_size: int
    samples: int
    indices: Tensor
    parts: tuple[Tensor, ...] | None = None
    first_unit: int = 0
    units: int = 0


class Dealer:
    """Deals the samples of each step.

    Args:
        order: which samples a step takes; None without a data set.
    """

    def __init__(self, order: Order | None) -> None:
        self._order = order
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64, device="cpu")
        self._prefixes = Prefixes(self._permutation)
        self._asked: tuple[int, int, tuple[float, ...]] | None = None
        self._shared = (0, 0)

    def deal(self, step: int, rank: int, weights: Sequence[float], by_units: bool) -> Share:
        """Returns what a rank computes of the step that follows ``step`` completed ones.

        Args:
            weights: of all ranks.
            by_units: whether shares are whole units.
        """
        order = self._order
        if order is None:
            return Share(0, False, 0, 0, self._permutation)
        epoch = order.epoch_of(step)
        if epoch != self._epoch:
            self._permutation = order.permutation(epoch)
            self._prefixes = Prefixes(self._permutation)
            self._epoch = epoch
        start, stop = order.bounds(step)
        places = cuts(start, stop, order.unit) if by_units else range(start, stop + 1)
        count = len(places) - 1
        low, high = self._share(count, rank, tuple(weights))
        parts = None
        if by_units:
            own = itertools.pairwise(places[low : high + 1])
            parts = tuple(self._permutation[one:other] for one, other in own)
        return Share(
            epoch=epoch,
            ends_epoch=order.epoch_of(step + 1) != epoch,
            batch_size=stop - start,
            samples=self._prefixes.digest(start, stop),
            indices=self._permutation[places[low] : places[high]],
            parts=parts,
            first_unit=low if by_units else 0,
            units=count if by_units else 0,
        )

    def _share(self, count: int, rank: int, weights: tuple[float, ...]) -> tuple[int, int]:
        """As ``share`` of ``count`` from 0; mostly that of the step before."""
        asked = count, rank, weights
        if asked != self._asked:
            self._asked, self._shared = asked, share(0, count, rank, weights)
        return self._shared
