"""What a run has taken, what its limits leave, and when one is reached: purely.

Costs are estimates: the hours for which an attempt's machines were up together, by the price list
of the machine that submitted it. Vertex AI charges nothing while a job is queued or its machines
are away, and a fee of its own besides; neither is in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.job.durations import format_duration
from launcher.job.fallback import Limits
from launcher.job.job import Job
from launcher.job.machines import Machine
from launcher.supervision.attempt import Attempt

if TYPE_CHECKING:
    from launcher.job.prices import PriceList


@dataclass(frozen=True)
class Spent:
    """What the attempts of a run have taken so far.

    Attributes:
        usd: estimated, controllers among it; None when a machine that ran has no known price.
        seconds: for which any of them has run.
        attempts: how many were sent.
    """

    usd: float | None
    seconds: float
    attempts: int


def spent(attempts: Sequence[Attempt], now: float, controllers_usd: float | None = 0.0) -> Spent:
    """Returns what a run has taken.

    Args:
        attempts: its attempts.
        now: Unix seconds.
        controllers_usd: what its controllers have cost; None when that is not known.
    """
    usd = controllers_usd
    stretches = []
    for attempt in attempts:
        if attempt.started is None:
            continue
        end = max(attempt.started, now if attempt.ended is None else attempt.ended)
        stretches.append((attempt.started, end))
        rate = attempt.usd_per_hour
        usd = None if usd is None or rate is None else usd + (end - attempt.started) / 3600 * rate
    return Spent(usd, _together(stretches), sum(attempt.sent for attempt in attempts))


def _together(stretches: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in any of these stretches of time."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(stretches):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def reached(limits: Limits, taken: Spent, now: float) -> str | None:
    """Returns which limit on a run that goes on is reached, in words for the user, or None."""
    if limits.cost and taken.usd is not None and taken.usd >= limits.cost.usd:
        return f"limits.cost: {limits.cost} are spent, by estimate"
    if limits.time is not None and taken.seconds >= limits.time.total_seconds():
        return f"limits.time: the attempts have run for {format_duration(limits.time)}"
    if limits.deadline is not None and now >= limits.deadline.timestamp():
        return f"limits.deadline: it is {limits.deadline.isoformat(timespec='minutes')}"
    return None


def no_more_attempts(limits: Limits, taken: Spent) -> str | None:
    """Returns why no further attempt may be made, in words for the user, or None."""
    if limits.attempts is None or taken.attempts < limits.attempts:
        return None
    made = "1 attempt was" if limits.attempts == 1 else f"{limits.attempts} attempts were"
    return f"limits.attempts: {made} made"


def account(
    limits: Limits, attempts: Sequence[Attempt], now: float, controllers_usd: float | None = 0.0
) -> dict[str, Any]:
    """Returns ``{"usd", "controllers", "seconds", "attempts", "remaining"}``: see ``swell status``.

    ``remaining`` has these keys but for ``controllers``, and ``until``, the deadline in Unix
    seconds; null where there is no limit, or no price.
    """
    taken = spent(attempts, now, controllers_usd)
    remaining: dict[str, float | None] = dict.fromkeys(("usd", "seconds", "attempts", "until"))
    if limits.cost and taken.usd is not None:
        remaining["usd"] = round(max(0.0, limits.cost.usd - taken.usd), 2)
    if limits.time is not None:
        remaining["seconds"] = round(max(0.0, limits.time.total_seconds() - taken.seconds), 1)
    if limits.attempts is not None:
        remaining["attempts"] = max(0, limits.attempts - taken.attempts)
    if limits.deadline is not None:
        remaining["until"] = limits.deadline.timestamp()
    return {
        "usd": None if taken.usd is None else round(taken.usd, 2),
        "controllers": None if controllers_usd is None else round(controllers_usd, 4),
        "seconds": round(taken.seconds, 1),
        "attempts": taken.attempts,
        "remaining": remaining,
    }


def usd_per_hour(job: Job, prices: PriceList, strategy: str = "") -> float | None:
    """Returns what the machines of ``job`` cost by the hour; None when a price is not known.

    Flex-start machines count as on-demand ones, which cost more. With a ``strategy``, what they
    would cost with that one.
    """
    spot = (strategy or job.scheduling.strategy) == "spot"
    total = 0.0
    for pool in job.pools:
        machine: Machine = prices.machines[pool.machine]
        price = machine.spot if spot else machine.on_demand
        if price is None:
            return None
        total += pool.replicas * price.usd_per_hour
    return total
