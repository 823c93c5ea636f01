"""Whether all ranks hold the same: what each tells of itself with the gradients, compared by all.

In every step a rank tells which parameters it trains, how many optimizer steps it has taken, and
the digest of the samples that it computes; after some of them, the digest of its whole state, too.
Every rank sees what all have told before it steps its optimizer, and so comes to the same verdict.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainer.engine.digest import MASK, combined
from trainer.engine.state import State

SHARE = 0.001  # of the time of training that may go into digests of the state
LEAST, MOST = 50, 10_000  # steps between two of them
PASSES = 5  # over the state: one for the digest, and four for what moves in a step (undo)
FIELDS = ("trained", "updates", "state", "samples")
_ALIKE = slice(3)  # the fields that all ranks have alike


class Told(NamedTuple):
    """What one rank tells of itself in a step; each an integer below 2**64.

    Attributes:
        trained: the digest of the names of the parameters that it trains.
        updates: how many optimizer steps its state has seen.
        state: the digest of the state before this step; 0 when nobody was to compute one.
        samples: the digest of the ids of the samples that it computes in this step.
    """

    trained: int = 0
    updates: int = 0
    state: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Difference:
    """Ranks that should be alike, and are not.

    Attributes:
        field: what differs, one of FIELDS.
        values: of each rank.
        alone: the rank that stands alone against several who agree; None if there is no such rank.
    """

    field: str
    values: tuple[int, ...]
    alone: int | None

    @classmethod
    def among(cls, field: str, values: Sequence[int]) -> Difference | None:
        """The difference among the ranks' values; None if they are all the same."""
        counts = Counter(values)
        if len(counts) == 1:
            return None
        alone = None
        if len(counts) == 2 and len(values) > 2 and min(counts.values()) == 1:
            alone = next(rank for rank, one in enumerate(values) if counts[one] == 1)
        return cls(field, tuple(values), alone)


def compare(told: Sequence[Told], samples: int) -> Difference | None:
    """What differs among all ranks; None if nothing does.

    Args:
        told: by each rank.
        samples: the digest of the ids of all samples of the step.
    """
    first = told[0][_ALIKE]
    if any(one[_ALIKE] != first for one in told):
        for field in ("trained", "updates", "state"):
            difference = Difference.among(field, [getattr(one, field) for one in told])
            if difference is not None:
                return difference
    found = [one.samples for one in told]
    if sum(found) & MASK != samples:
        return Difference("samples", tuple(found), None)
    return None


class Replicas:
    """When the whole state is compared, and its digest.

    Args:
        state: what all ranks should hold alike.
        clock: seconds.

    Attributes:
        examine: whether everything is compared in the running step: the sum of the gradients is
            witnessed, and the digest of the state before it is told.
    """

    def __init__(self, state: State, clock: Callable[[], float] = time.perf_counter) -> None:
        self.examine = True
        self._state = state
        self._clock = clock
        self._digest = 0
        self._since = 0  # steps without a digest
        self._cost = 0.0  # seconds of a digest
        self._step = 0.0  # seconds of a step
        self._completed_at: float | None = None

    def enter(self) -> None:
        """Another world: its first step is examined, and the state after it, too."""
        self.examine = True
        self._digest = 0
        self._since = MOST
        self._completed_at = None

    @property
    def digest(self) -> int:
        """The digest of the state as it is between two steps; 0 when it is not known."""
        return self._digest

    def due(self) -> bool:
        """Whether the state after the running step should be digested; rank 0 decides for all."""
        return self._since + 1 >= self.every

    @property
    def every(self) -> int:
        """Steps from one digest to the next, so that they take ``SHARE`` of the time."""
        if not self._cost or not self._step:
            return LEAST
        return min(max(LEAST, round(self._cost / (SHARE * self._step))), MOST)

    def completed(self, digest: bool) -> None:
        """A step has been applied; ``digest`` says whether the state is to be digested now."""
        now = self._clock()
        if self._completed_at is not None:
            last = now - self._completed_at
            self._step = last if not self._step else 0.9 * self._step + 0.1 * last
        self.examine = digest
        self._since = 0 if digest else self._since + 1
        self._digest = 0
        if digest:
            self._digest = self.digest_now()
            self._cost = PASSES * (self._clock() - now)
        self._completed_at = self._clock()

    def forget(self) -> None:
        """The state has been changed between two steps."""
        self._digest = 0

    def digest_now(self) -> int:
        """The digest of the state as it is; it is remembered until the next step completes."""
        if not self._digest:
            self._digest = combined([one for _, one in self._state.digests()]) or 1
        return self._digest
