"""Rows that have every pair of values of any two factors, and far fewer than all products.

Most faults of combinations need two things to meet, so rows in which all pairs meet find nearly
what all products would.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

Value = tuple[str, Any]  # of a factor
Pair = frozenset[Value]


def pairs(factors: Mapping[str, Sequence[Any]], clashes: Collection[Pair] = ()) -> set[Pair]:
    """All pairs of values of two factors, without those that clash."""
    return {
        pair
        for one, other in combinations(factors, 2)
        for a in factors[one]
        for b in factors[other]
        if (pair := frozenset({(one, a), (other, b)})) not in clashes
    }


def pairs_of(row: Mapping[str, Any]) -> set[Pair]:
    """The pairs that meet in a row."""
    return {frozenset(pair) for pair in combinations(row.items(), 2)}


def covering(
    factors: Mapping[str, Sequence[Any]], clashes: Collection[Pair] = ()
) -> list[dict[str, Any]]:
    """Returns rows, the same ones every time, in which each pair that fits meets.

    Args:
        factors: the values of each factor, by its name.
        clashes: pairs that must not meet.

    Raises ValueError when a pair cannot meet because nothing else fits beside it.
    """
    chance = random.Random(0)
    missing = pairs(factors, clashes)
    rows = []
    while missing:
        first = min(missing, key=lambda pair: sorted(map(repr, pair)))
        row = _row(first, factors, clashes, missing, chance)
        rows.append({name: row[name] for name in factors})
        missing -= pairs_of(row)
    return rows


def _row(
    first: Pair,
    factors: Mapping[str, Sequence[Any]],
    clashes: Collection[Pair],
    missing: Collection[Pair],
    chance: random.Random,
) -> dict[str, Any]:
    """A row with the pair ``first``, filled with what meets most that has not met yet."""
    row = dict(first)
    for name in chance.sample(list(factors), len(factors)):
        if name in row:
            continue
        gains = []
        for value in chance.sample(list(factors[name]), len(factors[name])):
            met = [frozenset({(name, value), other}) for other in row.items()]
            if not any(pair in clashes for pair in met):
                gains.append((sum(pair in missing for pair in met), value))
        if not gains:
            raise ValueError(f"no value of {name} fits beside {row}")
        row[name] = max(gains, key=lambda gain: gain[0])[1]
    return row
