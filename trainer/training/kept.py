"""What a task keeps by itself: in attributes, its classes' too, in variables of their files, and
random generators of its own.

Its loss may change them, and a trial of it is none that counts.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import numpy as np
import torch

from trainer.engine.attributes import CONTAINERS, PLAIN, Mapping, is_plain_object
from trainer.engine.memory import Memory

_OURS = ("builtins", "abc", "torch", "trainer")  # packages whose classes keep nothing of a task's


class Kept:
    """Remembers what some objects hold.

    Args:
        task: all that it keeps.
        others: their generators alone.
    """

    def __init__(self, task: Any, others: Iterable[Any] = ()) -> None:
        there = [vars(one) for one in (task, *others) if hasattr(one, "__dict__")]
        shared = [(one, _numbers(one)) for one in _shared(type(task))]
        self._memory = Memory([(vars(task), None), *shared])
        values = (value for one in there for value in one.values())
        self._generators = [back for one in values if (back := _generator(one)) is not None]

    def put_back(self) -> None:
        """Makes them hold what they held."""
        self._memory.put_back()
        for back in self._generators:
            back()


class _Attributes(MutableMapping[str, Any]):
    """The attributes of a class, which are read and set in different ways."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __getitem__(self, name: str) -> Any:
        return vars(self._kind)[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._kind, name, value)

    def __delitem__(self, name: str) -> None:
        delattr(self._kind, name)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self._kind))

    def __len__(self) -> int:
        return len(vars(self._kind))


def _shared(kind: type) -> Iterator[Mapping]:
    """Where a task's classes keep what all of their instances share."""
    kinds = [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in _OURS]
    yield from map(_Attributes, kinds)
    for name in dict.fromkeys(one.__module__ for one in kinds):
        if name in sys.modules:
            yield vars(sys.modules[name])


def _numbers(mapping: Mapping) -> list[str]:
    """The names of what a loss may count by there; not functions, classes and modules."""
    return [
        name
        for name, value in mapping.items()
        if not name.startswith("__")
        and (
            type(value) in PLAIN
            or isinstance(value, (torch.Tensor, np.ndarray, *CONTAINERS))
            or is_plain_object(value)
        )
    ]


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
