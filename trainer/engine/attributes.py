"""The attributes of objects, and which objects are nothing but what their attributes are."""

from __future__ import annotations

import enum
from array import array
from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import is_dataclass
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

NESTED = 5  # dataclasses that are looked into, one in the other
PLAIN = frozenset({bool, int, float, str, bytes, complex, type(None)})
CONTAINERS = (dict, list, deque, tuple, set, bytearray, array)
_SEEN = (Tensor, np.ndarray, np.generic, enum.Enum, type, *CONTAINERS)
_ROUTINES = (BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType)
_NO_HELPERS = (nn.Module, Optimizer, Random, ModuleType, type)

Mapping = MutableMapping[str, Any]


def is_plain_object(value: Any, nested: int = NESTED) -> bool:
    """Whether a value is an object that can be looked into: a helper of the program's own.

    Nothing of torch is, nor what tells its state itself, nor functions and classes, nor what holds
    anything but plain values: a queue, a file, the iterator of a data loader go on by themselves.

    Args:
        value: anything.
        nested: how many dataclasses may be one in the other.
    """
    kind = type(value)
    if isinstance(value, _NO_HELPERS) or kind.__module__.partition(".")[0] in ("torch", "builtins"):
        return False
    if hasattr(value, "state_dict") or is_routine(value):
        return False
    if not (hasattr(value, "__dict__") or hasattr(kind, "__slots__")):
        return False
    return all(is_plain(one, nested) for one in attributes_of(value).values())


def is_plain(value: Any, nested: int = NESTED) -> bool:
    """Whether all that a value is can be seen."""
    if type(value) in PLAIN or isinstance(value, _SEEN) or is_routine(value):
        return True
    return nested > 0 and is_dataclass(value) and is_plain_object(value, nested - 1)


def is_routine(value: Any) -> bool:
    """As ``inspect.isroutine``, in fewer calls."""
    kind = type(value)
    binds = hasattr(kind, "__get__") and not hasattr(kind, "__set__")
    return isinstance(value, _ROUTINES) or (binds and not isinstance(value, type))


def attributes_of(value: Any) -> Mapping:
    """The attributes of an object, which may have them in slots."""
    return vars(value) if hasattr(value, "__dict__") else Slots(value)


class Slots(MutableMapping[str, Any]):
    """The attributes of an object that has no ``__dict__``."""

    def __init__(self, value: Any) -> None:
        self._value = value
        slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
        names = [name for one in slots for name in ((one,) if isinstance(one, str) else one)]
        self._names = [name for name in names if not name.startswith("__")]

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self._value, name)
        except AttributeError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self._value, name, value)

    def __delitem__(self, name: str) -> None:
        object.__delattr__(self._value, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if hasattr(self._value, name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)
