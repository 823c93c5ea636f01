"""Collections of plain values in a form that travels: sets, queues, counts, named tuples, bytes.

A module may keep one in an attribute. Its contents go into what a newcomer has made there by itself
if that is of the same kind: no class comes from elsewhere.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Any

from trainer.engine.memory import fill

LONGEST = 1000  # entries of what travels
_KIND = "__collection__"
_PLAIN = (type(None), bool, int, float, str)
_SEQUENCES = (deque, list, tuple, array, bytearray, bytes)
_SETS = (set, frozenset)


def collected(value: Any) -> dict[str, Any] | None:
    """A collection as a tree of plain values; None for what is none, or holds something else."""
    contents: list[Any]
    if isinstance(value, complex):
        contents = [value.real, value.imag]
    elif isinstance(value, dict):
        contents = [*value.items()]
    elif isinstance(value, _SEQUENCES):
        contents = [*value]
    elif isinstance(value, _SETS):
        contents = sorted(value, key=repr)
    else:
        return None
    if len(contents) > LONGEST or not all(map(_is_atom, contents)):
        return None
    return {_KIND: _name_of(value), "contents": contents}


def is_collected(tree: Any) -> bool:
    """Whether a tree is what ``collected`` gave."""
    return isinstance(tree, dict) and _KIND in tree


def taken_over(tree: dict[str, Any], own: Any) -> Any:
    """``own`` with the contents of what ``collected`` gave; as it is, if it is of another kind."""
    contents: list[Any] = tree["contents"]
    if tree[_KIND] != _name_of(own):
        return own
    if isinstance(own, complex):
        return complex(*contents)
    if isinstance(own, bytes | frozenset):
        return type(own)(contents)
    if isinstance(own, tuple):
        return type(own)(*contents) if hasattr(own, "_fields") else type(own)(contents)
    if isinstance(own, dict):
        fill(own, dict(contents))
    else:
        fill(own, array(own.typecode, contents) if isinstance(own, array) else contents)
    return own


def _is_atom(value: Any) -> bool:
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_atom, value)))


def _name_of(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"
