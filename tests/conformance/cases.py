"""The grid: what ordinary training code does, factor by factor, and one case of it.

A case has a name that can be typed, such as ``AdamW+clip+tied+reentrant+short+3``: the optimizer,
then what differs from a plain loop in a world of one, in any order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.conformance.optimizers import TRAINED
from tests.conformance.pairwise import Pair, covering, pairs_of

# The first value of each is the plain one. Every value has a word of its own.
FACTORS: dict[str, Sequence[Any]] = {
    "optimizer": TRAINED,
    "parameters": (
        "plain",
        "frozen",  # some, from the start
        "unused",  # some, by every step
        "routed",  # some are reached by few samples, so in many steps by some ranks or none
        "tied",  # two layers have one weight
        "shared",  # one block is applied three times
        "thawed",  # frozen first, though the optimizer has them
        "added",  # frozen first, and then added to the optimizer
        "refrozen",  # trained first
    ),
    "recomputation": (
        "none",
        "reentrant",  # of each block, by the one of torch's two ways
        "nonreentrant",  # of each block, by the other
        "whole",  # of the whole model at once, reentrant
        "nested",  # of the whole model, and in it of each block, reentrant
    ),
    "world": ("1", "2", "3", "changing"),
    "clip": (False, True),
    "accumulate": (False, True),
    "groups": (False, True),
    "schedule": (False, True),
    "closure": (False, True),
    "short": (False, True),  # the last batch of an epoch has one sample
    "buckets": (False, True),  # one for every parameter, instead of one for all
}

_CLASHES: dict[Pair, str] = {
    frozenset({("optimizer", "Muon"), ("closure", True)}): (
        "Muon takes matrices alone, so another optimizer steps beside it, and only one of the two "
        "could evaluate the closure"
    ),
}
_FACTOR_OF = {
    name if value is True else value: (name, value)
    for name, values in FACTORS.items()
    for value in values
    if value is not False
}


@dataclass(frozen=True)
class Case:
    """One combination, with the seed of its data, weights and changes of the world.

    The attributes are the factors of the grid.
    """

    optimizer: str
    parameters: str = "plain"
    recomputation: str = "none"
    world: str = "1"
    clip: bool = False
    accumulate: bool = False
    groups: bool = False
    schedule: bool = False
    closure: bool = False
    short: bool = False
    buckets: bool = False
    seed: int = 0

    def __str__(self) -> str:
        words = [self.optimizer]
        for name, values in FACTORS.items():
            value = getattr(self, name)
            if name != "optimizer" and value != values[0]:
                words.append(name if value is True else value)
        if self.seed:
            words.append(f"seed{self.seed}")
        return "+".join(words)

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case of this name. Raises ValueError for a word that names nothing."""
        chosen: dict[str, Any] = {}
        for word in text.split("+"):
            if word in _FACTOR_OF:
                name, value = _FACTOR_OF[word]
                chosen[name] = value
            elif word.startswith("seed"):
                chosen["seed"] = int(word.removeprefix("seed"))
            else:
                raise ValueError(f"{word!r} is none of {', '.join(_FACTOR_OF)}, seedN")
        return cls(**chosen)


def in_pairs() -> list[Case]:
    """Cases in which every two values of the grid meet."""
    return [Case(**row) for row in covering(FACTORS, _CLASHES)]


def at_random(seed: str, count: int) -> list[Case]:
    """So many cases of the grid, each with a seed of its own; the same ones for the same seed."""
    chance = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < count:
        row = {name: chance.choice(values) for name, values in FACTORS.items()}
        if pairs_of(row).isdisjoint(_CLASHES):
            cases.append(Case(**row, seed=chance.randrange(1, 2**31)))
    return cases
