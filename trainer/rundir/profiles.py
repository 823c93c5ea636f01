"""What somebody wants to see of a run in detail: some steps of some ranks, as a profiler has them.

``profiles/000001.json`` is the first wish: steps, ranks, and whether memory is looked at, too. It
is created exclusively and never changes; each is carried out by itself. The leader hears of it, and
has the workers of these ranks profile themselves (trainer.engine.profiling). What they have seen is
beside the wish, for each rank and world: a trace, a table, and of a GPU's memory a snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import PROFILES

MOST_STEPS = 100  # of one wish: each step has thousands of lines in a trace
MOST_RANKS = 16
TRACE, TABLE, SNAPSHOT = ".trace.json.gz", ".txt", ".memory.pickle"


@dataclass(frozen=True)
class Wish:
    """Some steps of some ranks.

    Attributes:
        number: of the wish, from 1.
        first, last: of the steps.
        ranks: whose.
        memory: whether what they allocate is looked at, too.
        by: who wants it.
        at: when that was, in Unix seconds.
    """

    number: int
    first: int
    last: int
    ranks: tuple[int, ...] = (0,)
    memory: bool = False
    by: str = ""
    at: float = 0.0

    @classmethod
    def from_json(cls, number: int, record: Mapping[str, Any]) -> Wish:
        """The wish of a record. Raises ValueError for what ``to_json`` never returns."""
        told: dict[str, Any] = {
            it.name: record.get(it.name) for it in fields(cls) if it.name != "number"
        }
        ranks, whole = told["ranks"], [told["first"], told["last"]]
        if (
            not isinstance(ranks, list)
            or not 0 < len(ranks) <= MOST_RANKS
            or not all(type(it) is int and it >= 0 for it in (*whole, *ranks))
            or not 0 < told["first"] <= told["last"] < told["first"] + MOST_STEPS
            or type(told["memory"]) is not bool
        ):
            raise ValueError(f"{name_of(number)} is no wish")
        return cls(number, **{**told, "ranks": tuple(ranks)})

    def to_json(self) -> dict[str, Any]:
        """The record."""
        return {**asdict(self), "ranks": list(self.ranks)}


def name_of(number: int) -> str:
    """Returns the name of a wish's record in the run directory."""
    return f"{PROFILES}/{number:06d}.json"


def stem_of(number: int, generation: int, rank: int) -> str:
    """Returns how the names of all begin that a rank has seen in one world."""
    return f"{PROFILES}/{number:06d}-g{generation:06d}-rank-{rank:05d}"


def find_wish(run_dir: RunDirectory, number: int) -> Wish | None:
    """Returns a wish; None while there is none of that number.

    Raises OSError when the store does not say, and ValueError for one that is damaged.
    """
    record = run_dir.find_json(name_of(number))
    return None if record is None else Wish.from_json(number, record)


def create_wish(run_dir: RunDirectory, wish: Wish) -> Wish:
    """Writes a wish, with the next number that is free. Returns it. Raises OSError."""
    number = wish.number
    while True:
        numbered = replace(wish, number=number)
        if run_dir.create_json(name_of(number), numbered.to_json()):
            return numbered
        number += 1
