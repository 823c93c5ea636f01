"""Which checkpoints stay: a pure decision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.rundir.numbers import number_in


@dataclass(frozen=True)
class Retention:
    """What is kept.

    Attributes:
        last: so many of the newest, at least 1.
        every: besides, those whose step is a multiple of it; 0 for none.
        best: besides, the one with the highest finite value of this metric, or with the lowest
            if it begins with "-"; "" for none.
    """

    last: int = 2
    every: int = 0
    best: str = ""

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"{self.last} checkpoints to keep: there must be at least one")
        if self.every < 0:
            raise ValueError(f"every {self.every} steps: write 0 or more")

    def surplus(
        self,
        written: int,
        metrics: Mapping[int, Mapping[str, Any]],
        good: int | None = None,
    ) -> list[int]:
        """Returns the steps whose checkpoints are not kept, ascending.

        Args:
            written: the step that was just written, which always stays. Later ones are those
                that were rejected when this run was resumed: they must not push it out.
            metrics: of each checkpoint with a manifest, by step; {} where none were known.
            good: those up to this step are known to be of a state that could be trained on: the
                newest of them stays, until a later one is. None: all are.
        """
        until_now = sorted(step for step in metrics if step <= written)
        kept = set(until_now[-self.last :]) | {written}
        if good is not None:
            kept |= {max((step for step in until_now if step <= good), default=written)}
        if self.every:
            kept |= {step for step in until_now if step % self.every == 0}
        found = [(self.value(metrics[step]), step) for step in until_now]
        valued = [(value, step) for value, step in found if value is not None]
        if valued:
            kept.add(max(valued)[1])
        return [step for step in until_now if step not in kept]

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """What ``best`` goes by, the more the better; None where there is nothing to go by.

        Nor is what is not finite: NaN is neither more nor less than another number.
        """
        found = number_in(metrics.get(self.best.removeprefix("-"))) if self.best else None
        if found is None or not math.isfinite(found):
            return None
        return -found if self.best.startswith("-") else float(found)
