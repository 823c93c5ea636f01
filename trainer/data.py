"""Which samples a step takes: pure arithmetic that does not know the history of the world.

Step k of epoch e takes samples [kB, (k+1)B) of a permutation fixed by (seed, e). The
ranks of the world split that slice; another world splits it differently, but takes
the same slice. So the position in the data *is* the number of steps completed, and
each sample of an epoch is used exactly once however often the world changes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """The order of samples of a whole run.

    Attributes:
        samples: size of the data set.
        batch: the global batch B: samples of one step over all ranks.
        seed: fixes the permutations.
    """

    samples: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch < 1:
            raise ValueError(
                f"a data set of {self.samples} samples and a global batch of {self.batch}: "
                "both must be at least 1"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; the last one may take fewer samples than B."""
        return -(-self.samples // self.batch)

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of the step that follows ``step`` completed steps."""
        return step // self.steps_per_epoch

    def permutation(self, epoch: int) -> Tensor:
        """The order of epoch ``epoch``: int64, shape [samples]."""
        digest = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randperm(self.samples, generator=generator)

    def bounds(self, step: int) -> tuple[int, int]:
        """The slice [start, stop) of its epoch's permutation that the next step takes."""
        start = (step % self.steps_per_epoch) * self.batch
        return start, min(start + self.batch, self.samples)


def share(start: int, stop: int, rank: int, size: int) -> tuple[int, int]:
    """The part of [start, stop) that ``rank`` of ``size`` takes; sizes differ by at most 1."""
    count = stop - start
    return start + count * rank // size, start + count * (rank + 1) // size
