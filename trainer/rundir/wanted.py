"""What a fleet is asked to be while it goes on: how many CustomJobs, where and on what.

``wanted/000002.json`` is version 2. A version is whole, is created exclusively by somebody who has
read the one before, and never changes; the highest number counts. So whoever asks, of whatever
machine, and whoever looks after the run sees the same. A run of which nobody has asked anything
has none: it is what its job file says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import WANTED


@dataclass(frozen=True)
class Wanted:
    """One version of it.

    Attributes:
        version: its number, from 1.
        jobs: CustomJobs at a time.
        region, machine, strategy: in place of the job file's, for all of them; empty for those.
        renew: numbers of attempts to be replaced by others like them: their timeout is near.
        dear: numbers of attempts to be replaced by what the job prefers to them and costs less, as
            soon as that is to be had.
        leave: numbers of attempts that are to leave the world: others train in their place, or
            fewer are wanted. They leave at a step boundary; then their CustomJobs are cancelled.
        max_workers: no world is larger; with room for those that replace others.
        by: who asked last for other jobs, or another place; empty for nobody.
        at: when that was, in Unix seconds; else when the run was launched.
    """

    version: int = 0
    jobs: int = 1
    region: str = ""
    machine: str = ""
    strategy: str = ""
    renew: tuple[int, ...] = ()
    dear: tuple[int, ...] = ()
    leave: tuple[int, ...] = ()
    max_workers: int = 1
    by: str = ""
    at: float = 0.0

    @classmethod
    def from_json(cls, version: int, record: Mapping[str, Any]) -> Wanted:
        """The version of a record. Raises ValueError for what ``to_json`` never returns."""
        known = {field.name: record.get(field.name, field.default) for field in fields(cls)}
        numbers = known["renew"], known["dear"], known["leave"]
        counts = (known["jobs"], known["max_workers"])
        texts = (known["region"], known["machine"], known["strategy"], known["by"])
        if (
            not all(type(count) is int and count >= 1 for count in counts)
            or not all(isinstance(text, str) for text in texts)
            or not all(isinstance(one, list | tuple) for one in numbers)
            or not all(type(number) is int for one in numbers for number in one)
            or type(known["at"]) not in (int, float)
            or not math.isfinite(known["at"])
        ):
            raise ValueError(f"{name_of(version)} is not what a run is asked to be")
        renew, dear, leave = map(tuple, numbers)
        told = {"renew": renew, "dear": dear, "leave": leave}
        return cls(**{**known, "version": version, **told})

    def to_json(self) -> dict[str, Any]:
        """The record."""
        told = {"renew": self.renew, "dear": self.dear, "leave": self.leave}
        return {**asdict(self), **{name: list(numbers) for name, numbers in told.items()}}


def name_of(version: int) -> str:
    """Returns the name of a version's record in the run directory."""
    return f"{WANTED}/{version:06d}.json"


def newest_wanted(run_dir: RunDirectory, known: Wanted | None = None) -> Wanted | None:
    """Returns what counts; None where nobody has asked for anything.

    A record that is damaged counts as absent, and so do those after it.

    Args:
        run_dir: the run.
        known: a version that was read before.

    Raises OSError when the store does not say.
    """
    with suppress(ValueError):
        version = 1 if known is None else known.version + 1
        while (record := run_dir.find_json(name_of(version))) is not None:
            known = Wanted.from_json(version, record)
            version += 1
    return known


def create_wanted(run_dir: RunDirectory, wanted: Wanted) -> bool:
    """Makes this version the one that counts, unless there is one of its number already.

    Returns whether this call did it. Raises OSError when the store does not say.
    """
    return run_dir.create_json(name_of(wanted.version), wanted.to_json())
