"""By units, each is computed when ``split()`` gives it, and not before or after.

Its random numbers and its batch statistics begin there. A program that makes a list of the parts
first would compute all of them with those of the last one, and nobody would see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.engine.compiling import compiles, computed
from trainer.engine.mistake import Mistake


class UnitOrder:
    """Watches that models are called while units are given.

    Compiled code is not seen to call one. There it is watched that anything is computed, and that
    gradients come of it otherwise.

    Args:
        models: of the state. What a program computes with a part of one of them is not seen.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._calls = 0
        self._before = 0
        self._computed = 0
        self._listed = 0  # the step whose units were all given before anything was computed
        self._handles = [one.register_forward_pre_hook(self._called) for one in models]

    def close(self) -> None:
        """The models are the program's own again."""
        while self._handles:
            self._handles.pop().remove()

    def begin(self) -> None:
        """A step begins, or its first unit is given."""
        self._before, self._computed = self._calls, computed()
        self._listed = 0

    def given(self, step: int, units: int) -> None:
        """All units of a step have been given here, so many."""
        seen = self._calls != self._before or (compiles() and computed() != self._computed)
        if units > 1 and not seen:
            self._listed = step

    def _called(self, model: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._calls += 1
        self._require_given()

    def reached(self, passes: int) -> None:
        """So many backward passes have come to an end. Raises Mistake if that was to be before."""
        if passes:
            self._require_given()

    def _require_given(self) -> None:
        if self._listed:
            raise Mistake(
                "SW5149",
                f"step {self._listed}: all parts were taken from split() before the first was "
                "computed, and by units each has random numbers and batch statistics of its own; "
                "compute each inside the loop over step.split(), and not from a list of it",
            )
