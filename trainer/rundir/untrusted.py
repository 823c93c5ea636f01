"""JSON from the network or the store: taken in only as far as programs can work with it.

The parser of the standard library takes more than JSON, and more than is good for whoever
works on what it returns: numbers that no other type can hold, one name given twice, nesting
that any walk over it fails in. All of that is a ValueError here, and nothing else is raised.

Infinity and NaN are let through, although no standard has them: they are what metrics become
when a training diverges, and Python writes them. Whoever needs a number that is one, asks.
"""

from __future__ import annotations

import json
from typing import Any

DEPTH = 100  # levels of nesting; the deepest that Swell writes are states of optimizers
_WHOLE = 2**64  # no whole number that Swell writes is larger


def parse_json(data: bytes | str) -> Any:
    """Returns what ``data`` says, in UTF-8 if it is bytes.

    The memory that it takes is up to 60 times ``data``, whose size is for the caller to limit.

    Raises ValueError for what is not JSON, has numbers beyond 64 bits, names given twice in
    one object, or more than DEPTH levels.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = _DECODER.decode(text)
        # Anything so deep has as many brackets; a walk over everything is rarely needed.
        if text.count("[") + text.count("{") > DEPTH and _depth(value) > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} levels deep") from None
    return value


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= 21 else _WHOLE
    if abs(number) >= _WHOLE:
        raise ValueError(f"the number {digits[:10]}… is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return value


_DECODER = json.JSONDecoder(parse_int=_whole, object_pairs_hook=_object)


def _depth(value: Any) -> int:
    """How deep ``value`` is nested; by levels and not by recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(inner for inner in one.values() if isinstance(inner, dict | list))
            elif isinstance(one, list):
                below.extend(inner for inner in one if isinstance(inner, dict | list))
        level = below
    return depth
