"""Data as it was handed to loaders: what changes in it later they do not see.

To compare whole data sets would cost too much. So numbers, texts and switches are compared, and how
many entries a list has: of the data set, and of the objects that it holds, such as a transform.
What begins with an underscore is passed over, as it may well be a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

MOST = 200  # values
DEPTH = 2
_PLAIN = (bool, int, float, str, type(None))
_MANY = (list, tuple, dict, set, frozenset)


class Handed:
    """A data set as it is now.

    Args:
        data: anything.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._was = _values(data)

    @property
    def changed(self) -> str:
        """What is another now, as ``.level was 1 and is 2``; "" if nothing is."""
        now = _values(self._data)
        if now == self._was:
            return ""
        for name, value in self._was.items():
            if name not in now or now[name] != value:
                return f"{name} was {value} and is {now.get(name, 'gone')}"
        return f"{next(iter(now.keys() - self._was.keys()))} is new"


def _values(data: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _walk(data, "", DEPTH):
        if len(found) == MOST:
            break
        found[name] = value
    return found


def _walk(one: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(one, _PLAIN):
        # A number that is none equals nothing, not even itself.
        yield name, "nan" if isinstance(one, float) and one != one else one
    elif isinstance(one, _MANY):
        yield f"len({name})" if name else "length", len(one)
    elif (
        depth and not isinstance(one, type | FunctionType | ModuleType) and hasattr(one, "__dict__")
    ):
        for key, value in [*vars(one).items()]:
            if not key.startswith("_"):
                yield from _walk(value, f"{name}.{key}", depth - 1)
