"""What a loader makes: the batch of a part of a step, or of an evaluation.

It imports nothing of worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from trainer.engine.generators import Probe, seed_batch
from trainer.engine.plan import Plan
from trainer.loaders.likeness import Likeness, likeness_of
from trainer.loaders.mark import Mark

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
        mark: from where data without a length can be read on.
        oldest: the first place of it that may still be asked for.
        changing: what of the program a loader has not as it will be.
    """

    plan: Plan
    part: int
    watched: bool
    seed: int | None
    of: str = TRAINING
    mark: Mark | None = None
    oldest: int = 0
    changing: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int, int, bytes, bool]:
        """Tells it from all others."""
        indices = self.plan.indices.numpy().tobytes()
        return self.of, self.plan.number, self.part, indices, self.watched


class Made(NamedTuple):
    """What was made of an item.

    Attributes:
        batch: on the CPU.
        drew: whether random numbers were drawn, if that is watched.
        marks: those that reading data without a length has come to.
    """

    batch: Any
    drew: bool
    marks: Sequence[Mark] = ()


class Places(Protocol):
    """Data without a length, as what makes batches of it knows it; see trainer.data.stream."""

    def seek(self, mark: Mark | None, oldest: int) -> None:
        """Says from where it can be read on, and that nothing before ``oldest`` is wanted."""

    def marks(self) -> list[Mark]:
        """The marks that reading has come to since this was called."""


def stream_of(make: Make) -> Places | None:
    """The data without a length that batches are made of; None where it has one."""
    dataset = getattr(make, "dataset", None)
    return dataset if hasattr(dataset, "seek") and hasattr(dataset, "marks") else None


class Maker:
    """What a loader is: it makes the batches of items.

    Args:
        makes: make a batch, each of some data.
    """

    def __init__(self, makes: Mapping[str, Make]) -> None:
        self._makes = makes
        self._probe: Probe | None = None

    def __call__(self, item: Item | None) -> Made:
        """Makes a batch; of no item, it says in its place what the data is like."""
        if item is None:
            return Made(self.likeness(), drew=False)
        make = self._makes[item.of]
        forbid = getattr(make, "forbid", None)
        if item.changing and forbid is not None:
            forbid(item.changing)
        stream = stream_of(make)
        if stream is not None:
            stream.seek(item.mark, item.oldest)
        if item.watched:
            self._probe = self._probe or Probe()
            self._probe.begin()
        elif item.seed is not None:
            seed_batch(item.seed, item.plan.number, item.part)
        batch = make(item.plan.indices, item.plan)
        drew = item.watched and self._probe is not None and self._probe.moved
        return Made(batch, drew, () if stream is None else stream.marks())

    def likeness(self) -> Likeness:
        """What the data is like that batches are made of."""
        data = [getattr(make, "dataset", None) for make in self._makes.values()]
        return likeness_of(data, lambda index: seed_batch(0, index, 0))
