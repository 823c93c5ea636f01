"""Plain values of a state, in a form that travels: NumPy's, enums and dataclasses among them.

No class is imported for a value that comes from elsewhere, and none of its code is run: an enum or
a dataclass is found among what this process has imported already, and must be one.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KIND = "__kind__"
_PLAIN = (type(None), bool, int, float, str)


class Unportable(TypeError):
    """A value is of a kind that does not travel; the text names the place and the remedy."""


def packed(value: Any, where: str) -> Any:
    """``value`` as a tree of dicts, lists, tuples, tensors and plain values.

    Raises Unportable, naming the place, for what is none of these, nor a NumPy scalar or array
    of numbers, an enum's member, or a dataclass of such values.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, enum.Enum):
        return {_KIND: "enum", "type": _name_of(type(value)), "name": value.name}
    if isinstance(value, np.generic | np.ndarray):
        return _packed_array(value, where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {
            one.name: packed(getattr(value, one.name), f"{where}.{one.name}")
            for one in dataclasses.fields(value)
        }
        return {_KIND: "dataclass", "type": _name_of(type(value)), "fields": parts}
    if type(value) in (dict, OrderedDict):
        for key in value:
            if type(key) not in (str, int) or key == _KIND:
                raise Unportable(
                    f"{where} has the key {key!r}; keys must be strings or whole numbers"
                )
        return {key: packed(one, f"{where}[{key!r}]") for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(packed(one, f"{where}[{i}]") for i, one in enumerate(value))
    raise Unportable(
        f"{where} is a {type(value).__name__}, which does not travel; {_remedy(value)}"
    )


def unpacked(tree: Any) -> Any:
    """The inverse of ``packed``. Raises ValueError for a type that this process does not have."""
    if isinstance(tree, dict):
        match tree.get(_KIND):
            case "enum":
                return _found(tree["type"], enum.Enum)[tree["name"]]
            case "array":
                return tree["numbers"].cpu().numpy().astype(np.dtype(tree["dtype"]))
            case "scalar":
                return np.dtype(tree["dtype"]).type(tree["number"])
            case "dataclass":
                kind = _found(tree["type"], object)
                if not dataclasses.is_dataclass(kind):
                    raise ValueError(f"{tree['type']} is no dataclass here")
                made: Any = object.__new__(kind)  # type: ignore[arg-type]
                for name, value in tree["fields"].items():
                    object.__setattr__(made, name, unpacked(value))
                return made
        return {key: unpacked(one) for key, one in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(unpacked(one) for one in tree)
    return tree


def _packed_array(value: Any, where: str) -> dict[str, Any]:
    dtype = str(value.dtype)
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise Unportable(f"{where} is of NumPy's type {dtype}, which does not travel; use numbers")
    if isinstance(value, np.generic):
        return {_KIND: "scalar", "dtype": dtype, "number": value.item()}
    # torch has few operations for unsigned numbers: their bits travel as signed ones.
    numbers = np.ascontiguousarray(value)
    if numbers.dtype.kind == "u" and numbers.dtype.itemsize > 1:
        numbers = numbers.view(f"i{numbers.dtype.itemsize}")
    return {_KIND: "array", "dtype": dtype, "numbers": torch.from_numpy(numbers.copy())}


def _name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _found(name: str, base: type) -> Any:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(f"the state has a value of {name}, which this program does not have")
    return found


def _remedy(value: Any) -> str:
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return "a part with a state_dict must be given to State(…) from the beginning"
    if isinstance(value, set | frozenset):
        return "write sorted(…), a list"
    if hasattr(value, "__float__"):
        return "write float(…)"
    return "use numbers, strings, tensors, and dicts and lists of them"
