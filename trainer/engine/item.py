"""What a loader makes: the batch of a part of a step. It imports nothing of worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer.engine.generators import Probe, seed_batch
from trainer.engine.plan import Plan

# Makes a batch of some samples, on the CPU, for a step.
Make = Callable[[Tensor, Plan], Any]


@dataclass(frozen=True)
class Item:
    """A part of a step, as a loader is given it.

    Attributes:
        plan: what the step is about; its samples are those of the part.
        part: which one: a unit's number, or the first of the samples.
        watched: whether it matters that random numbers are drawn.
        seed: of what is random in a step; None leaves the generators alone.
    """

    plan: Plan
    part: int
    watched: bool
    seed: int | None

    @property
    def key(self) -> tuple[int, int, bytes, bool]:
        """Tells it from all others."""
        return self.plan.number, self.part, self.plan.indices.numpy().tobytes(), self.watched


class Maker:
    """What a loader is: it makes the batches of items.

    Args:
        make: makes a batch.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._probe: Probe | None = None

    def __call__(self, item: Item) -> tuple[Any, bool]:
        """Returns a batch, and whether random numbers were drawn, if that is watched."""
        if item.watched:
            self._probe = self._probe or Probe()
            self._probe.begin()
        elif item.seed is not None:
            seed_batch(item.seed, item.plan.number, item.part)
        batch = self._make(item.plan.indices, item.plan)
        return batch, item.watched and self._probe is not None and self._probe.moved
