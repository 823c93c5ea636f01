"""Every figure that ``swell status`` and the summary show of a run, defined once, and computed.

All are computed from the run's events (trainer.rundir.events), and nothing else.

================  ================================================================================
figure            what it is
================  ================================================================================
step              steps completed: those of the newest generation, the last one included
steps_lost        steps that were completed, and had to be done again: for each generation, how far
                  back it began behind the furthest step that was known before
drains            notices that a replica would be taken away; one that several leaders hear of
                  counts once. When the run ends, all leave: neither that nor what follows counts;
                  nor do those of a job of a fleet that was given up
losses            replicas that went, or lost a worker, without notice; when a job of a fleet fails
                  with one of its VMs, each of its replicas did. All that dies with a VM is one
                  loss, and so is a VM that several leaders miss; a member that only went over to
                  another leader is none. Where no leader was left to see it, a replica that has
                  not come to the next one when that forms a world was lost
pauses            for each generation but the first that has completed a step: the seconds from the
                  last step before it to its first step. What it took to notice, to form the world,
                  to send the state, to compile and to compute that step is in it; so is a world in
                  between that completed no step, and the time without any machine. Its cause is the
                  first such world's: why the steps ended
paused            the sum of the pauses
goodput           trained / span, at most 1
trained           seconds that steps took, each since the one before it in the same world. No step
                  counts twice, none that was done again later, none that was left out because
                  something in it was not finite, and no first step of a world: it is part of a
                  pause. Of steps that were reported together all count alike
span              from the end of the run's first step to the end of the run, or until now while it
                  goes on; at least what steps and pauses add up to, as the two ends are read from
                  the clocks of two machines
speed             steps per second, and samples of all workers per second, over the newest steps of
                  the newest world: those of its last 10 to 20 s, where there are as many. As in
                  ``trained`` its first step does not count; evaluations and checkpoints between two
                  steps do. None while the run waits for machines
================  ================================================================================

Durations are measured on one machine where there is one that saw all of it. A pause through which
no worker lived is a difference between clocks of two machines.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from launcher.status.generation import Generation

NEVER = 2**63  # a step that no run reaches


def step_of(generations: Iterable[Generation]) -> int:
    """Steps completed. ``generations`` in order, as below."""
    begun = [one for one in generations if one.start is not None or one.last]
    return begun[-1].last if begun else 0


def steps_lost(generations: Iterable[Generation], told: dict[int, int]) -> int:
    """Steps that had to be done again; ``told``: by generation, what its leader knew of."""
    lost, furthest = 0, 0
    for one in generations:
        if one.start is not None:
            lost += max(furthest - one.start, told.get(one.generation, 0), 0)
            furthest = max(one.start, one.last)
    return lost


def pauses(generations: Iterable[Generation]) -> Iterator[dict[str, Any]]:
    """What each re-formation cost."""
    last_at, cause = -math.inf, None
    for one in generations:
        cause = cause or one.cause
        seconds = _pause(one, last_at)
        if cause != "start" and seconds is not None:
            yield {
                "cause": cause,
                "seconds": round(seconds, 4),
                "generation": one.generation,
                "step": one.start,
            }
        if one.first_at is not None or one.last > (one.start or 0):
            cause = None
        last_at = max(last_at, one.last_at)


def _pause(one: Generation, last_at: float) -> float | None:
    if one.first_at is None:
        # Of an older version, which knew of no first step: until its workers had begun.
        return one.idle if one.start is not None and one.last > one.start else None
    if one.idle is not None:
        return one.idle + (one.first_took or 0.0)
    return max(0.0, one.first_at - last_at) if math.isfinite(last_at) else None


def speed(generation: Generation | None) -> dict[str, float | None]:
    """Steps and samples per second, and the part of the time that batches were waited for.

    None where nobody has said what steps took, their samples, or their waits.
    """
    newest = None if generation is None else generation.speed
    if newest is None:
        return {"steps": None, "samples": None, "data_wait": None}
    steps, samples = newest.last - newest.first + 1, newest.samples
    waited = newest.data_wait
    return {
        "steps": float(f"{steps / newest.seconds:.4g}"),
        "samples": float(f"{samples / newest.seconds:.4g}") if samples else None,
        "data_wait": None if waited is None else round(min(1.0, waited / newest.seconds), 4),
    }


def goodput(
    generations: Iterable[Generation], until: float, left_out: Collection[int] = ()
) -> float | None:
    """The share of a run's time that went into steps that count; None before its second step.

    Args:
        generations: in order.
        until: when the run ended, or now, in Unix seconds.
        left_out: steps that changed nothing.
    """
    known = list(generations)
    began = min((one.first_at for one in known if one.first_at is not None), default=math.inf)
    taken = sum(one.trained(NEVER) for one in known)
    span = max(until - began, taken + sum(float(one["seconds"]) for one in pauses(known)))
    limits = _limits(known)
    trained = sum(one.trained(limit, left_out) for one, limit in zip(known, limits, strict=True))
    if not span > 0 or not any(one.stretches for one in known):
        return None
    return round(min(1.0, trained / span), 4)


def _limits(generations: list[Generation]) -> list[int]:
    """Of each generation, the last step that no later one has done again."""
    limits, least = [], NEVER
    for one in reversed(generations):
        limits.append(least)
        if one.start is not None:
            least = min(least, one.start)
    return limits[::-1]
