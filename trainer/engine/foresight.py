"""Tells a data set which of its shards this rank needs soon, and in which order.

Steps are planned far ahead, as if the world stayed as it is: a few more of them in each step, until
enough is known. When the world changes it begins anew; what is there by then is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from trainer.engine.plan import Plan

AT_ONCE = 4  # steps that are planned more in each
SHARDS = 256  # that are known at most: those in use, and as many again
STEPS = 4096  # ahead at most


class Shelved(Protocol):
    """A data set of shards that are fetched when it is told that they are needed."""

    @property
    def fetches(self) -> bool:
        """Whether it wants to be told."""

    def shards_of(self, indices: Any) -> Any:
        """The numbers of the shards that have these samples."""

    def expect(self, shards: Sequence[int]) -> None:
        """Has these fetched, the first of them first."""

    def close(self) -> None:
        """Has nothing fetched any more."""


class Foresight:
    """What one rank needs in the steps to come.

    Args:
        dataset: is told.
    """

    def __init__(self, dataset: Shelved) -> None:
        self._dataset = dataset
        self._needed: dict[int, int] = {}  # by first use: the last step that is known to need it
        self._next = 0  # the first step that is not planned
        self._known: Any = None  # what the plans follow from
        self._number = 0

    @classmethod
    def of(cls, dataset: Any) -> Foresight | None:
        """That of a data set which wants to be told."""
        return cls(dataset) if getattr(dataset, "fetches", False) else None

    def begin(self, plan: Plan, known: Any, ahead: Callable[[int], Plan]) -> None:
        """A step begins.

        Args:
            plan: what it is about.
            known: what plans follow from: equal while the world is as it was.
            ahead: plans a step to come.
        """
        before = [*self._needed]
        if known != self._known or plan.number != self._number + 1:
            self._known, self._next = known, plan.number
            self._needed.clear()
        self._number = plan.number
        self._needed = {one: last for one, last in self._needed.items() if last >= plan.number}
        most = min(plan.total, plan.number + STEPS)
        for _ in range(AT_ONCE):
            if self._next > most or len(self._needed) >= SHARDS:
                break
            of = plan if self._next == plan.number else ahead(self._next)
            for shard in self._dataset.shards_of(of.indices).tolist():
                self._needed[shard] = self._next
            self._next += 1
        if [*self._needed] != before:
            self._dataset.expect([*self._needed])

    def close(self) -> None:
        """Training has ended."""
        self._dataset.close()
