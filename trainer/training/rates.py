"""What a task says of how much work a sample is, for the rates that are shown of it."""

from __future__ import annotations

import math
from typing import Protocol

from trainer.engine.mistake import Mistake

COUNT = "count"  # has the operations counted
TOKENS = "tokens_per_sample"  # the name of the mean


class Rated(Protocol):
    """A task, as far as it says so."""

    @property
    def flops_per_sample(self) -> float | str | None: ...


def flops_of(task: Rated) -> float | None:
    """The operations that a sample takes; None where the task does not say, or has them counted.

    Raises Mistake for what is no number of operations.
    """
    given = task.flops_per_sample
    if given is None or given == COUNT:
        return None
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if number and 0 < float(given) < math.inf:
        return float(given)
    raise Mistake(
        "SW6219",
        f"flops_per_sample is {given!r}; write the floating-point operations that a sample takes, "
        f"forward and backward, or {COUNT!r} to have them counted",
    )
