"""Where a run may run, in order, and where it runs next: purely.

A choice is a region with a job for it: the job's own regions with its own pools, then each of its
fallbacks in each of its regions. The first one goes, except that:

- A choice that had no machines, or no quota, rests; twice as long each time. And after its rest it
  stands behind all those that were tried in vain less often, since an attempt last got machines.
- A choice with ``after`` is for when the run has had fewer attempts running than it is to have for
  so long. Once one has run, the time begins anew, so the run goes back to what is cheaper when a
  dearer attempt has ended.

Attempts that are alive at the same time fail as one: what became of the first could not be known
when the others were sent, so eight that find no machines are one failure (``rounds``).

Pauses are drawn from the run's id and the attempt's number: runs that lost their machines together
do not come back together, and yet the same history always gives the same decision.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from launcher.job.fallback import Fallback, Resubmit
from launcher.job.job import Job
from launcher.job.machines import MACHINES
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
        after: seconds with too few running attempts from which on it counts.
        usd_per_hour: what its machines cost, estimated; None when that is not known.
        on_demand: what they would cost on demand, likewise.
    """

    region: str
    job: Job
    after: float = 0.0
    usd_per_hour: float | None = None
    on_demand: float | None = None

    @property
    def members(self) -> int:
        """How many of its replicas take part in the training."""
        return sum(it.replicas for it in self.job.pools if self.job.starts_agent(it))

    @property
    def flops(self) -> float:
        """Operations a second of all GPUs that take part, at most (see launcher.job.machines)."""
        pools = (pool for pool in self.job.pools if self.job.starts_agent(pool))
        return sum(MACHINES[pool.machine].flops * pool.replicas for pool in pools)

    @property
    def name(self) -> str:
        """The choice in words, which tell it from the run's others."""
        machines = groupby(self.job.pools, lambda pool: pool.machine)
        counted = [f"{sum(p.replicas for p in pools)} x {name}" for name, pools in machines]
        return f"{' + '.join(counted)}, {self.job.scheduling.strategy}, {self.region}"


def choices_of(
    job: Job,
    local_region: str,
    prices: PriceList | None = None,
    instead: Fallback | None = None,
) -> list[Choice]:
    """Returns the choices of a job, in their order.

    Args:
        job: what to run.
        local_region: where a job runs that names no region.
        prices: what machines cost; without them no choice says what it costs.
        instead: what is wanted in place of what the job says, and each of its fallbacks.

    Raises pydantic.ValidationError when ``instead`` is nothing for the job itself; a fallback that
    it is nothing for is left out.
    """
    ways = [(job if instead is None else job.variant(instead), 0.0)]
    for fallback in job.fallback:
        variant = job.variant(fallback)
        with suppress(ValueError):
            variant = variant if instead is None else variant.variant(instead)
            ways.append((variant, fallback.after.total_seconds()))
    found: dict[str, Choice] = {}
    for variant, after in ways:
        usd = usd_per_hour(variant, prices) if prices else None
        full = usd_per_hour(variant, prices, "standard") if prices else None
        for region in variant.regions or [local_region]:
            choice = Choice(region, variant, after, usd, full)
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
    others: int = 0,
) -> Next:
    """Returns where the next attempt is made, and from when on.

    Args:
        choices: all there are, in order; at least one.
        attempts: those so far.
        created: when the run was, or what is wanted of it now was asked for, in Unix seconds.
        now: Unix seconds.
        resubmit: how long pauses are.
        seed: what the pauses' jitter is drawn from.
        others: how many are alive beside which it will run.
    """
    pauses = Backoff(resubmit.pause.total_seconds(), resubmit.longest.total_seconds())
    earliest = _after_failures(attempts, pauses, seed)
    lacking = _lacking_since(attempts, others, created)
    ranked = []
    for choice in choices:
        dry = rounds(_dry(choice, attempts))
        rested = _rested(dry, pauses, seed) if dry else 0.0
        wanted = lacking + choice.after if choice.after else 0.0
        ranked.append((len(dry), Next(choice, max(earliest, rested, wanted))))
    free = [it for it in ranked if it[1].at <= now]
    if free:  # where there were no machines least often, before what is tried in vain again
        return min(free, key=lambda it: it[0])[1]
    return min((it for _, it in ranked), key=lambda it: it.at)


def fruitless(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """Returns the last attempts in a row that failed by themselves, and completed no step.

    In rounds, the last one first. What still lives is not among them.
    """
    found: list[Attempt] = []
    for attempt in by_end(attempts)[::-1]:
        verdict = verdict_of(attempt)
        if verdict in ("unsent", "unreachable", "replaced") or verdict in DRY:
            continue
        if _trained(attempt, attempts):
            break
        found.append(attempt)
    return rounds(found)[::-1]


def rounds(attempts: Iterable[Attempt]) -> list[list[Attempt]]:
    """Parts attempts that are over into those that were sent before one of the others had ended."""
    found: list[list[Attempt]] = []
    over = -math.inf
    for attempt in sorted(attempts, key=lambda it: it.attempt):
        if not found or attempt.created >= over:
            found.append([])
            over = math.inf
        found[-1].append(attempt)
        over = min(over, attempt.ended or 0.0)
    return found


def by_end(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Returns those that are over, as they ended."""
    return sorted((it for it in attempts if it.over), key=lambda it: (it.ended or 0.0, it.attempt))


def _trained(attempt: Attempt, attempts: Sequence[Attempt]) -> bool:
    """Whether a step was completed with it."""
    if attempt.trained is not None:
        return attempt.trained > 0
    before = (it.step for it in attempts if it.over and (it.ended or 0.0) <= attempt.created)
    return attempt.step > max(before, default=0)


def _after_failures(attempts: Sequence[Attempt], pauses: Backoff, seed: str) -> float:
    """When the run may be sent again at all."""
    failed = fruitless(attempts)
    ended = by_end(attempts)[::-1]
    last = next((it for it in ended if it.sent and verdict_of(it) != "replaced"), None)
    return _rested(failed[::-1], pauses, seed) if failed and last in failed[0] else 0.0


def _lacking_since(attempts: Sequence[Attempt], others: int, created: float) -> float:
    """Since when no more than ``others`` attempts have been running."""
    changes = [(it.started, 1) for it in attempts if it.started is not None]
    changes += [(it.ended or created, -1) for it in attempts if it.started is not None and it.over]
    running, since = 0, created
    for at, change in sorted(changes, key=lambda it: (it[0], -it[1])):
        running += change
        if change < 0 and running == others:
            since = max(since, at)
    return since


def _dry(choice: Choice, attempts: Sequence[Attempt]) -> Iterator[Attempt]:
    """Those in vain with a choice since one last got machines: before, that is another story."""
    began = max((it.started for it in attempts if it.started is not None), default=-math.inf)
    name = choice.name
    for attempt in attempts:
        mine = attempt.choice == name and attempt.sent and attempt.over
        if mine and (attempt.ended or 0.0) > began and verdict_of(attempt) in DRY:
            yield attempt


def _rested(failed: Sequence[Sequence[Attempt]], pauses: Backoff, seed: str) -> float:
    """When the pause after the last of these rounds is over."""
    last = by_end(failed[-1])[-1]
    drawn = random.Random(f"{seed} {last.attempt}").random()
    return (last.ended or 0.0) + pauses.wait(len(failed), drawn)
