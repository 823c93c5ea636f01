"""Where a run may run, in order, and where it runs next: purely.

A choice is a region with a job for it: the job's own regions with its own pools, then each of its
fallbacks in each of its regions. The first one goes, except that:

- A choice that had no machines, or no quota, rests; twice as long each time. And after its rest it
  stands behind all those that were tried in vain less often, since an attempt last ran.
- A choice with ``after`` is for when nothing of the run has run for so long. Once one has run, the
  time begins anew, so the run goes back to what is cheaper when a dearer attempt has ended.

Pauses are drawn from the run's id and the attempt's number: runs that lost their machines together
do not come back together, and yet the same history always gives the same decision.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from launcher.job.fallback import Resubmit
from launcher.job.job import Job
from launcher.supervision.attempt import Attempt
from launcher.supervision.limits import usd_per_hour
from launcher.supervision.verdict import verdict_of
from trainer.rundir.retry import Backoff

if TYPE_CHECKING:
    from launcher.job.prices import PriceList

DRY = frozenset({"stockout", "quota", "expired"})


@dataclass(frozen=True)
class Choice:
    """One way to run.

    Attributes:
        region: where.
        job: on what; without fallbacks of its own.
        after: seconds without a running attempt from which on it counts.
        usd_per_hour: what its machines cost, estimated; None when that is not known.
    """

    region: str
    job: Job
    after: float = 0.0
    usd_per_hour: float | None = None

    @property
    def name(self) -> str:
        """The choice in words, which tell it from the run's others."""
        machines = groupby(self.job.pools, lambda pool: pool.machine)
        counted = [f"{sum(p.replicas for p in pools)} x {name}" for name, pools in machines]
        return f"{' + '.join(counted)}, {self.job.scheduling.strategy}, {self.region}"


def choices_of(job: Job, local_region: str, prices: PriceList | None = None) -> list[Choice]:
    """Returns the choices of a job, in their order.

    Args:
        job: what to run.
        local_region: where a job runs that names no region.
        prices: what machines cost; without them no choice says what it costs.
    """
    ways = [(job, 0.0)]
    ways += [(job.variant(it), it.after.total_seconds()) for it in job.fallback]
    found: dict[str, Choice] = {}
    for variant, after in ways:
        usd = usd_per_hour(variant, prices) if prices else None
        for region in variant.regions or [local_region]:
            choice = Choice(region, variant, after, usd)
            found.setdefault(choice.name, choice)
    return list(found.values())


@dataclass(frozen=True)
class Next:
    """Which choice is next, and when in Unix seconds."""

    choice: Choice
    at: float


def next_choice(
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    *,
    created: float,
    now: float,
    resubmit: Resubmit,
    seed: str,
) -> Next:
    """Returns where the next attempt is made, and from when on.

    Args:
        choices: all there are, in order.
        attempts: those so far, all over.
        created: when the run was, in Unix seconds.
        now: Unix seconds.
        resubmit: how long pauses are.
        seed: what the pauses' jitter is drawn from.
    """
    pauses = Backoff(resubmit.pause.total_seconds(), resubmit.longest.total_seconds())
    earliest = _after_failures(attempts, pauses, seed)
    idle_since = max((a.ended or created for a in attempts if a.started), default=created)
    ranked = []
    for choice in choices:
        dry = _dry(choice, attempts)
        rested = (dry[-1].ended or 0.0) + _pause(dry[-1], len(dry), pauses, seed) if dry else 0.0
        wanted = idle_since + choice.after if choice.after else 0.0
        ranked.append((len(dry), Next(choice, max(earliest, rested, wanted))))
    free = [it for it in ranked if it[1].at <= now]
    if free:  # where there were no machines least often, before what is tried in vain again
        return min(free, key=lambda it: it[0])[1]
    return min((it for _, it in ranked), key=lambda it: it.at)


def fruitless(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Returns the last attempts in a row that failed by themselves, and completed no step."""
    found: list[Attempt] = []
    for index in range(len(attempts) - 1, -1, -1):
        attempt = attempts[index]
        before = max((a.step for a in attempts[:index]), default=0)
        verdict = verdict_of(attempt)
        if verdict == "unsent" or verdict in DRY:
            continue
        if attempt.step > before:
            break
        found.append(attempt)
    return found


def _after_failures(attempts: Sequence[Attempt], pauses: Backoff, seed: str) -> float:
    """When the run may be sent again at all."""
    failed = fruitless(attempts)
    if not failed or failed[0] is not _last_sent(attempts):
        return 0.0
    return (failed[0].ended or 0.0) + _pause(failed[0], len(failed), pauses, seed)


def _dry(choice: Choice, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts in vain with a choice since one last ran: what was before is another story."""
    began = max((index for index, it in enumerate(attempts) if it.started), default=0)
    mine = [a for a in attempts[began:] if a.choice == choice.name and a.sent]
    return [attempt for attempt in mine if verdict_of(attempt) in DRY]


def _last_sent(attempts: Sequence[Attempt]) -> Attempt | None:
    return next((attempt for attempt in reversed(attempts) if attempt.sent), None)


def _pause(attempt: Attempt, failures: int, pauses: Backoff, seed: str) -> float:
    return pauses.wait(failures, random.Random(f"{seed} {attempt.attempt}").random())
