"""Numbers in Swell's files: those that JSON lacks stand there as the texts "nan", "inf", "-inf".

Metrics become such when a training diverges, and then nobody should miss it: neither a reader for
whom ``NaN`` is no JSON, nor one for whom ``null`` is nothing to tell.
"""

from __future__ import annotations

import json
import math
from typing import Any

_NAMES = ("nan", "inf", "-inf")


def dumped(value: Any, **how: Any) -> str:
    """``value`` as JSON, with every number in it that JSON lacks as its name."""
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:
        return json.dumps(named(value), allow_nan=False, **how)


def named(value: Any) -> Any:
    """``value`` as JSON has it: each number in it that is not finite is its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: named(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [named(one) for one in value]
    return value


def number_in(value: Any) -> float | None:
    """The number that stands in a file, whether by itself or by its name; None for anything else.

    Files of older versions have NaN and Infinity as Python writes them, which it reads, too.
    """
    if isinstance(value, str):
        return float(value) if value in _NAMES else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def all_finite(values: list[Any]) -> bool:
    """Whether all of them are floats, and finite: nothing about them needs a second look."""
    return set(map(type, values)) <= {float} and all(map(math.isfinite, values))


def numbers_in(values: Any) -> dict[str, float]:
    """The numbers among ``values``, by name; none if that is no mapping."""
    if not isinstance(values, dict):
        return {}
    if set(map(type, values.values())) == {float}:  # as almost always, a hundred thousand times
        return dict(values)
    found = {str(name): number_in(one) for name, one in values.items()}
    return {name: one for name, one in found.items() if one is not None}
