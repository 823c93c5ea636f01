"""The functions that schedules go by, as what they give: so those of two programs can be compared.

A checkpoint holds no function, and its source would say too little (what it takes from around it),
and too much (how it is written). What it gives at some counts tells one from another.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

FIRST, POINTS = 8, 128  # counts that are all asked for, and at most so many over the whole run

Curve = dict[int, float]  # what a function gives, by count


def curves_of(schedule: Any, total: int) -> dict[str, Curve | None]:
    """What each function of a schedule gives, by its place; None for one that cannot be asked.

    Args:
        schedule: one of torch's, or one like them.
        total: steps of the whole run.
    """
    return {place: curve(function, total) for place, function in _functions(schedule, "")}


def curve(function: Callable[[int], Any], total: int) -> Curve | None:
    """What a function of a count gives at the first counts, and at some over the whole run.

    The distances of these are powers of two, so that runs of different lengths share some. It is
    asked up to the first count that it cannot answer. None if it answers none.
    """
    stride = 1 << max(0, math.ceil(math.log2(max(1, total) / POINTS)))
    found: Curve = {}
    try:
        own = copy.deepcopy(function)  # an object may count how often it is called
        for count in sorted({*range(FIRST), *range(0, total + 1, stride)}):
            found[count] = float(own(count))
    except Exception:  # it is the program's, and may raise anything: a table may have an end
        return found or None
    return found


def differences_of(
    name: str, then: Mapping[str, Curve | None] | None, now: Mapping[str, Curve | None]
) -> list[str]:
    """In which functions a schedule differs from what it was, in words; or that nobody knows.

    Args:
        name: the schedule's.
        then: as a checkpoint has them; None for one that does not say.
        now: the program's.
    """
    found = []
    for place, here in now.items():
        which = f"{name}'s function {place}" if len(now) > 1 else f"{name}'s function"
        there = None if then is None else then.get(place)
        if here is None or there is None:
            who = "it cannot be asked" if here is None else "the checkpoint does not know it"
            found.append(f"{which} is not compared with what it was: {who}")
            continue
        for count in sorted(here.keys() & there.keys()):
            if not _alike(here[count], there[count]):
                values = f"{here[count]:.6g} instead of {there[count]:.6g}"
                found.append(f"{which} gives {values} for {count}")
                break
    return found


def _functions(schedule: Any, place: str) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """The functions of a schedule and of those within it; one that all groups have comes once."""
    known = set()
    for number, function in enumerate(getattr(schedule, "lr_lambdas", ())):
        if id(function) not in known:
            known.add(id(function))
            yield f"{place}{number}", function
    for number, inner in enumerate(getattr(schedule, "_schedulers", ())):
        yield from _functions(inner, f"{place}{number}.")


def _alike(one: float, other: float) -> bool:
    """Another machine's cosine may differ in its last bit."""
    same = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return same or (math.isnan(one) and math.isnan(other))
