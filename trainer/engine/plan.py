"""What a step is about, on one rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """What a step is about, on one rank.

    Attributes:
        number: of the step, from 1.
        total: steps of the whole run.
        epoch: from 0.
        indices: this rank's samples, int64, shape [n]; n may be 0.
        samples: the digest of those of all ranks; 0 without a data set.
        batch_size: samples of the step over all ranks.
        ends_epoch: whether it is the last step of its epoch.
        rank: this worker's rank.
        size: how many workers there are.
        device: where this worker computes.
        parts: the units that this rank computes; None where shares are computed at once.
        first_unit: the number of the first of them, from 0.
        units: how many all ranks compute together.
    """

    number: int
    total: int
    epoch: int
    indices: Tensor
    samples: int
    batch_size: int
    ends_epoch: bool
    rank: int
    size: int
    device: torch.device
    parts: tuple[Tensor, ...] | None = None
    first_unit: int = 0
    units: int = 0

    @property
    def progress(self) -> float:
        """The part of the run that lies behind, from 0 in the first step to below 1."""
        return (self.number - 1) / self.total


class Planned:
    """Has what a plan says of its step, without the detour; a base class."""

    plan: Plan

    @property
    def number(self) -> int:
        """The step's number, from 1."""
        return self.plan.number

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.plan.total

    @property
    def progress(self) -> float:
        """The part of the run that lies behind, from 0 in the first step to below 1."""
        return self.plan.progress

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        return self.plan.epoch

    @property
    def batch_size(self) -> int:
        """Samples of the step over all ranks: what a summed loss is divided by."""
        return self.plan.batch_size

    @property
    def rank(self) -> int:
        """This worker's rank in the world."""
        return self.plan.rank

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        return self.plan.device
