"""What a fleet may be asked to be while it goes on, and what the policy makes of it: purely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from launcher.job.fallback import Fallback
from launcher.job.fleet import MAX_JOBS
from launcher.job.job import Job
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet
from trainer.rundir.usererror import UserError
from trainer.rundir.wanted import Wanted

if TYPE_CHECKING:
    from launcher.job.prices import PriceList

UNFIT = "SW2033"  # the message that a run cannot be asked to be another
IMPOSSIBLE = "SW2032"  # the message that it cannot be what it is asked to be


class WantedError(UserError, ValueError):
    """What a run cannot be asked to be."""


@dataclass(frozen=True)
class Change:
    """What somebody asks of a run. What is None stays as it is.

    Attributes:
        jobs: CustomJobs at a time.
        region, machine, strategy: of all of them.
    """

    jobs: int | None = None
    region: str | None = None
    machine: str | None = None
    strategy: str | None = None


@dataclass(frozen=True)
class Ways:
    """Where the attempts of a fleet may run, in order: its choices, and those of its anchors."""

    choices: tuple[Choice, ...]
    anchors: tuple[Choice, ...]

    @property
    def slots(self) -> int:
        """How many workers the largest of its jobs has."""
        return max(choice.job.slots for choice in (*self.choices, *self.anchors))


def ways_of(
    job: Job, local_region: str, prices: PriceList | None = None, wanted: Wanted | None = None
) -> Ways:
    """Returns the ways of a job, and of what it is asked to be.

    Args:
        job, local_region, prices: see ``choices_of``.
        wanted: what it is asked to be.

    Raises ValueError when the job cannot be that.
    """
    instead = kept = None
    if wanted is not None and (wanted.region or wanted.machine or wanted.strategy):
        fields = {"regions": wanted.region or None, "machine": wanted.machine or None}
        if wanted.region or wanted.machine:
            kept = Fallback.model_validate(_given(fields))
        instead = Fallback.model_validate(_given({**fields, "strategy": wanted.strategy or None}))
    anchors = choices_of(job.anchors(), local_region, prices, kept) if job.fleet.anchor else []
    return Ways(tuple(choices_of(job, local_region, prices, instead)), tuple(anchors))


def _given(fields: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}


def fleet_of(job: Job, ways: Ways, wanted: Wanted | None = None) -> Fleet:
    """Returns the fleet that a job has, or is asked to be. Raises ValueError if it is too large."""
    fleet = Fleet(job.fleet.jobs, job.fleet.anchor, ways.anchors, job.fleet.across_regions)
    if wanted is None or not wanted.version:
        return fleet
    if wanted.jobs > MAX_JOBS:
        raise ValueError(f"{wanted.jobs} jobs are more than {MAX_JOBS}")
    renew, dear, leave = map(frozenset, (wanted.renew, wanted.dear, wanted.leave))
    return replace(fleet, jobs=wanted.jobs, since=wanted.at, renew=renew, dear=dear, leave=leave)


def launched(job: Job, ways: Ways, created: float) -> Wanted:
    """Returns what a run is while nobody has asked for anything."""
    jobs = job.fleet.jobs
    return Wanted(jobs=jobs, max_workers=_room(job, jobs, ways.slots), at=created)


def unfit(job: Job, changes_worlds: bool | None) -> str | None:
    """Returns why a run of this job cannot change its jobs while it goes on; None if it can.

    Args:
        job: the run's.
        changes_worlds: whether its program takes that (launcher.job.source), as run.json has it.
    """
    if not job.is_fleet:
        return (
            "its workers are set up for one CustomJob's own network, and others cannot join them; "
            "launch it with fleet: 1, or another number"
        )
    if job.task or changes_worlds:
        return None
    anew = "cancel it, and launch it anew"
    if job.torchrun:
        what = "a torchrun script begins again in every world, from what it has saved last"
    elif changes_worlds is None:
        what = "whether its program is elastic was not known where it was launched"
    else:
        what = "its program is plain Horovod, whose world never changes"
    return f"{what}; {anew}"


def renews(job: Job, ways: Ways, changes_worlds: bool | None) -> bool:
    """Whether others can take the place of attempts that train; see ``unfit``."""
    return unfit(job, changes_worlds) is None and _fits_one_more(job, job.fleet.jobs, ways.slots)


def changed(
    job: Job, before: Wanted, change: Change, ways: tuple[Ways, Ways], by: str, at: float
) -> Wanted:
    """Returns the next version: what a run is asked to be from now on.

    Args:
        job: the run's.
        before: what it is asked to be so far.
        change: what is asked.
        ways: those of ``before``, and those of what is asked.
        by: who asks.
        at: when, in Unix seconds.

    Raises WantedError when the run cannot be that.
    """
    slots = max(one.slots for one in ways)
    asked = moved(before, change)
    if problem := next(_problems(job, asked, ways[1].choices, slots), None):
        raise WantedError(IMPOSSIBLE, problem)
    room = _room(job, max(before.jobs, asked.jobs), slots)
    return replace(asked, version=before.version + 1, max_workers=room, by=by, at=at)


def moved(before: Wanted, change: Change) -> Wanted:
    """Returns what was asked before, with a change."""
    return replace(
        before,
        jobs=before.jobs if change.jobs is None else change.jobs,
        region=change.region or before.region,
        machine=change.machine or before.machine,
        strategy=change.strategy or before.strategy,
    )


def _problems(job: Job, asked: Wanted, choices: Sequence[Choice], slots: int) -> Iterator[str]:
    if not 1 <= asked.jobs <= MAX_JOBS:
        yield f"{asked.jobs} jobs: a fleet has 1 to {MAX_JOBS}"
    if asked.jobs < job.fleet.anchor:
        yield f"the number of jobs, {asked.jobs}, is less than fleet.anchor, {job.fleet.anchor}"
    workers, least = asked.jobs * choices[0].job.slots, job.elastic.min_workers
    if workers < least:
        yield f"its workers, {workers}, would be fewer than elastic.min_workers, {least}"
    if not _fits_one_more(job, asked.jobs, slots):
        most, needed = job.elastic.max_workers, (asked.jobs + 1) * slots
        yield (
            f"elastic.max_workers is {most}, and the world has {needed} while one of its jobs is "
            f"replaced; launch the run with at least that"
        )


def _fits_one_more(job: Job, jobs: int, slots: int) -> bool:
    """Whether a world may have a job more than are wanted."""
    most = job.elastic.max_workers
    return most is None or most >= (jobs + 1) * slots


def _room(job: Job, jobs: int, slots: int) -> int:
    """How large worlds may be: as the job says, or with all that are replaced beside those."""
    return job.elastic.max_workers or 2 * jobs * slots
