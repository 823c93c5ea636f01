"""What only a step itself can show: then that step is taken again, by all ranks, knowing it.

Which numbers a program measures, and whether its share depends on how the batch is cut, nobody
knows before the first step, and some ranks have no sample in it. So a rank that finds something new
says so with its gradients; no rank applies the step, all tell each other what they have found, and
the step comes again. What was learned travels with the state.

A rank can be lost while the others tell each other, and then some of them know it and some do not.
So the ranks of a new world compare what they know, and tell each other again if it differs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.engine.digest import digest_of


@dataclass(frozen=True)
class Learned:
    """What the ranks of a run know by now.

    Attributes:
        means: the names of the means that a step measures, in order.
        units: why the batch is computed by units; "" while it need not be.
        evaluated: the newest step whose evaluation is done.
        stops: whether an evaluation has ended training.
    """

    means: tuple[str, ...] = ()
    units: str = ""
    evaluated: int = 0
    stops: bool = False

    def found(self, other: Learned) -> Learned:
        """With what a step has shown besides."""
        means = tuple(sorted({*self.means, *other.means}))
        stops = self.stops or other.stops
        return Learned(means, max(self.units, other.units), self.evaluated, stops)

    @classmethod
    def together(cls, told: Sequence[Learned]) -> Learned:
        """What all know when all have told: what any has found, and what all have evaluated."""
        whole = functools.reduce(cls.found, told)
        return replace(whole, evaluated=min(one.evaluated for one in told))

    @classmethod
    def of(cls, plain: dict[str, Any] | None) -> Learned:
        """The inverse of ``plain``; nothing, of a state of before."""
        return cls() if plain is None else cls(**{**plain, "means": tuple(plain["means"])})

    @property
    def plain(self) -> dict[str, Any]:
        """As it travels."""
        return {**asdict(self), "means": list(self.means)}

    @property
    def number(self) -> int:
        """A digest below 2**52; ranks that know the same have the same."""
        return digest_of(self.plain) >> 12


NOTHING = Learned()
