"""What a loader makes: the batch of a part of a step, or of an evaluation.

It imports nothing of worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer.engine.generators import Probe, seed_batch
from trainer.engine.plan import Plan

# Makes a batch of some samples, on the CPU, for a step.
Make = Callable[[Tensor, Plan], Any]
TRAINING, EVALUATION = "training", "evaluation"  # what batches are of


@dataclass(frozen=True)
class Item:
    """A part of a step, as a loader is given it.

    Attributes:
        plan: what the step is about; its samples are those of the part.
        part: which one: a unit's number, or the first of the samples.
        watched: whether it matters that random numbers are drawn.
        seed: of what is random in a step; None leaves the generators alone.
        of: which data.
    """

    plan: Plan
    part: int
    watched: bool
    seed: int | None
    of: str = TRAINING

    @property
    def key(self) -> tuple[str, int, int, bytes, bool]:
        """Tells it from all others."""
        indices = self.plan.indices.numpy().tobytes()
        return self.of, self.plan.number, self.part, indices, self.watched


class Maker:
    """What a loader is: it makes the batches of items.

    Args:
        makes: make a batch, each of some data.
    """

    def __init__(self, makes: Mapping[str, Make]) -> None:
        self._makes = makes
        self._probe: Probe | None = None

    def __call__(self, item: Item) -> tuple[Any, bool]:
        """Returns a batch, and whether random numbers were drawn, if that is watched."""
        if item.watched:
            self._probe = self._probe or Probe()
            self._probe.begin()
        elif item.seed is not None:
            seed_batch(item.seed, item.plan.number, item.part)
        batch = self._makes[item.of](item.plan.indices, item.plan)
        return batch, item.watched and self._probe is not None and self._probe.moved
