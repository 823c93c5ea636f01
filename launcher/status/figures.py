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
speed             steps per second, and samples of all workers per second. Of a run that goes on,
                  over the newest steps of the newest world: those of its last 10 to 20 s, where
                  there are as many. Its first step does not count, which compiles; evaluations and
                  checkpoints between two steps do. None while the run waits for machines. Of a run
                  that is over, from the end of its first step to that of its last: pauses, lost
                  work and everything else between the two are in it (launcher.status.pace). Tokens
                  per second, operations per second and their part of what the GPUs of the world
                  compute at most (``mfu``: dense, in bf16) follow from the samples, where the task
                  says what a sample is; the seconds that are ``left``, from the steps to come
goodput           what the time of the run's VMs, and their money, went into: see
                  launcher.status.accounts
================  ================================================================================

Durations are measured on one machine where there is one that saw all of it. A pause through which
no worker lived is a difference between clocks of two machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from launcher.run_states import OK, info_of
from launcher.status.generation import Generation


class Work(NamedTuple):
    """What a sample is, as far as its task says so, and what the world's machines can do.

    Attributes:
        tokens: that a sample has, on average.
        flops: operations that it takes, forward and backward.
        peak: operations a second of all GPUs of the world, at most; 0 without any.
    """

    tokens: float | None = None
    flops: float | None = None
    peak: float = 0.0


def step_of(generations: Iterable[Generation]) -> int:
    """Steps completed. ``generations`` in order, as below."""
    begun = [one for one in generations if one.start is not None or one.last]
    return begun[-1].last if begun else 0


def kept(
    state: str | None, saved: tuple[float, int] | None, generations: Iterable[Generation]
) -> int | None:
    """The last step that was of use; None if all were, as far as anybody knows.

    What no checkpoint has is lost with a run that ends without success.

    Args:
        state: in which the run has ended; None while it goes on.
        saved: when its newest checkpoint was written, and of which step.
        generations: all of them.
    """
    info = info_of(state or "")
    if not info.ending or info.exit_code == OK:
        return None
    if saved is not None:
        return saved[1]
    # A script may have kept something where nobody but it looks.
    return None if any(one.script for one in generations) else 0


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


def digits(rate: float) -> float | None:
    """A rate in four digits; None for one that is no number, of what was told."""
    return float(f"{rate:.4g}") if math.isfinite(rate) else None


UNKNOWN = Work()
NOTHING: dict[str, float | None] = dict.fromkeys(
    ("steps", "samples", "tokens", "flops", "mfu", "data_wait", "left")
)


def speed(
    generation: Generation | None,
    work: Work = UNKNOWN,
    left: int | None = None,
) -> dict[str, float | None]:
    """How fast a world trains: see above. None where nobody has said what is needed for it.

    Args:
        generation: the newest.
        work: what a sample is.
        left: steps that are to come; None where nobody knows.
    """
    newest = None if generation is None else generation.speed
    if newest is None:
        return dict(NOTHING)
    steps = (newest.last - newest.first + 1) / newest.seconds
    samples = newest.samples / newest.seconds if newest.samples else None
    waited = newest.data_wait
    part = None if waited is None else min(1.0, max(0.0, waited) / newest.seconds)
    return rates(steps, samples, work, part, None if left is None else left / steps)


def rates(
    steps: float,
    samples: float | None,
    work: Work,
    data_wait: float | None,
    left: float | None = None,
) -> dict[str, float | None]:
    """What follows from steps and samples a second, in few digits.

    Args:
        steps, samples: a second; samples None where nobody counts them.
        work: what a sample is.
        data_wait: the part of the time that rank 0 waits for batches; None likewise.
        left: seconds to the last step; None where nobody knows.
    """
    flops = None if samples is None or work.flops is None else samples * work.flops
    found = {
        **NOTHING,
        "steps": steps,
        "samples": samples,
        "tokens": samples * work.tokens if samples and work.tokens else None,
        "flops": flops,
        "mfu": flops / work.peak if flops is not None and work.peak else None,
        "left": left,
    }
    told = {name: None if it is None else digits(it) for name, it in found.items()}
    return told | {"data_wait": None if data_wait is None else round(data_wait, 4)}
