"""What a fleet is asked to be while it goes on, and which of its attempts others replace: purely.

``swell status`` says so: whoever looks after the run may be another machine, and what it does next
follows from these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launcher.job.durations import format_duration
from launcher.job.job import Job
from launcher.supervision.attempt import Attempt
from launcher.supervision.fleet import Fleet, alive, lack, outdated, spare
from launcher.supervision.preference import sought
from launcher.supervision.replacement import USUAL_TIMEOUT
from launcher.supervision.wanted import Ways, fleet_of
from trainer.rundir.wanted import Wanted


@dataclass(frozen=True)
class Replaced:
    """An attempt that is to go.

    Attributes:
        attempt: its number.
        why: in words.
        leaves: whether it has been told to leave the world; else it stays until others train.
        by: the attempts that are to train in its place; none are there yet where it is empty.
    """

    attempt: int
    why: str
    leaves: bool
    by: tuple[int, ...]


@dataclass(frozen=True)
class Changes:
    """What changes in a fleet.

    Attributes:
        wanted: what it is to be.
        replaced: its attempts that are to go.
    """

    wanted: Wanted
    replaced: tuple[Replaced, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns ``{wanted, replaced}`` as ``swell status --json`` has them."""
        it = self.wanted
        return {
            "wanted": {
                "version": it.version,
                "jobs": it.jobs,
                "region": it.region or None,
                "machine": it.machine or None,
                "strategy": it.strategy or None,
                "by": it.by or None,
                "at": it.at if it.by else None,
            },
            "replaced": [{**asdict(one), "by": list(one.by)} for one in self.replaced],
        }


def changes_of(job: Job, ways: Ways, wanted: Wanted, attempts: Sequence[Attempt]) -> Changes:
    """Returns what changes in a fleet.

    Args:
        job: the run's.
        ways: where it may run, as it is wanted now.
        wanted: what it is asked to be.
        attempts: all there are.

    Raises ValueError for what it cannot be.
    """
    return Changes(wanted, tuple(_replaced(job, ways, wanted, attempts)))


def _replaced(
    job: Job, ways: Ways, wanted: Wanted, attempts: Sequence[Attempt]
) -> Iterator[Replaced]:
    fleet = fleet_of(job, ways, wanted)
    dear = sought(fleet, ways.choices, attempts)
    old = outdated(fleet, ways.choices, attempts) | frozenset(dear)
    named = {choice.name for choice in (*ways.choices, *ways.anchors)}
    live = [it for it in alive(attempts) if not it.left]
    kept = _kept(job, ways, fleet, attempts, frozenset(dear))
    for it in live:
        number = it.attempt
        if number not in old:
            continue
        if it.choice not in named:
            why = f"it is {it.choice}, which is not what is wanted any more"
        elif number in wanted.renew:
            timeout = next(
                c.job.timeout for c in (*ways.anchors, *ways.choices) if c.name == it.choice
            )
            why = f"its timeout of {format_duration(timeout or USUAL_TIMEOUT)} is near"
        elif number in wanted.dear:
            why = "it is on demand, and Spot costs less"
        else:
            why = "fewer jobs are wanted, or others train in its place"
        if number not in wanted.leave:
            why += kept
        by = (one.attempt for one in live if one.attempt not in old and one.attempt > number)
        yield Replaced(number, why, number in wanted.leave, tuple(by))


def _kept(
    job: Job, ways: Ways, fleet: Fleet, attempts: Sequence[Attempt], dear: frozenset[int]
) -> str:
    """Why nothing is sent in the place of what is to go, if a limit is: the end of a sentence."""
    bonus = spare(fleet, job.limits, attempts)
    lacking = lack(fleet, ways.choices, attempts, dear)
    sends = lacking.sent(bonus) == lacking.total and (not lacking.cheaper or lacking.total < bonus)
    if job.limits.attempts is None or sends:
        return ""
    left = max(0, job.limits.attempts - sum(it.sent for it in attempts))
    return f"; no other is sent beside it: what limits.attempts leaves ({left}) is kept for a loss"
