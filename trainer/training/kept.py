"""What a task keeps by itself: what it has in attributes, and random generators of its own.

Its loss may change them, and a trial of it is none that counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from trainer.engine.memory import Memory


class Kept:
    """Remembers what some objects hold.

    Args:
        holders: the task first; of the others, their generators alone.
    """

    def __init__(self, holders: Iterable[Any]) -> None:
        there = [vars(one) for one in holders if hasattr(one, "__dict__")]
        self._memory = Memory([(there[0], None)])
        values = (value for one in there for value in one.values())
        self._generators = [back for one in values if (back := _generator(one)) is not None]

    def put_back(self) -> None:
        """Makes them hold what they held."""
        self._memory.put_back()
        for back in self._generators:
            back()


def _generator(value: Any) -> Callable[[], Any] | None:
    """What sets a random generator back to where it is; None for what is none."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, np.random.Generator):
        numbers, before = value.bit_generator, value.bit_generator.state
        return lambda: setattr(numbers, "state", before)
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    if isinstance(value, random.Random):
        python = value.getstate()
        return lambda: value.setstate(python)
    return None
