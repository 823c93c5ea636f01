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
speed             steps per second, and samples of all workers per second, over the newest steps of
                  the newest world: those of its last 10 to 20 s, where there are as many. Its first
                  step does not count, which compiles; evaluations and checkpoints between two steps
                  do. None while the run waits for machines
goodput           what the time of the run's VMs, and their money, went into: see
                  launcher.status.accounts
================  ================================================================================

Durations are measured on one machine where there is one that saw all of it. A pause through which
no worker lived is a difference between clocks of two machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from launcher.status.generation import Generation


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
