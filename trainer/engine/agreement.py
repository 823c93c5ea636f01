"""What the ranks of a new world hold, told to each other once, and whose state counts."""

from __future__ import annotations

from dataclasses import dataclass

import horovod.torch as hvd
import torch


@dataclass(frozen=True)
class Holding:
    """What one rank brings into a generation.

    Attributes:
        step: steps completed.
        clean: whether its state is exactly that of ``step``, trained or received.
        speed: samples per second that it computed at last; 0 when it is not known.
    """

    step: int
    clean: bool
    speed: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """The same on every rank.

    Attributes:
        holdings: of every rank, in order of rank.
    """

    holdings: tuple[Holding, ...]

    @property
    def root(self) -> int:
        """The most advanced clean rank; rank 0 when none is clean."""
        ranks = range(len(self.holdings))
        best = max(ranks, key=lambda r: (self.holdings[r].clean, self.holdings[r].step, -r))
        return best if self.holdings[best].clean else 0

    @property
    def held(self) -> bool:
        """Whether anybody holds a state that is worth having."""
        return self.holdings[self.root].clean

    def is_held_by(self, one: Holding) -> bool:
        """Whether a rank holds the state that counts already."""
        return one.clean and one.step == self.holdings[self.root].step

    @property
    def unanimous(self) -> bool:
        """Whether all ranks hold the same state already."""
        return all(map(self.is_held_by, self.holdings))


def agree(mine: Holding) -> Agreement:
    """Tells all ranks what this one holds. A collective: every rank must call it."""
    numbers = torch.tensor([[mine.step, mine.clean, mine.speed]], dtype=torch.float64)
    told = hvd.allgather(numbers, name="state.held").tolist()
    return Agreement(tuple(Holding(int(step), bool(clean), speed) for step, clean, speed in told))
