"""How fast a run was from its first step to its last, pauses included. Pure.

While a run goes on its newest steps say more (``figures.speed``); of one that is over they say how
fast its last seconds were, which may be twice or half of what the whole was.
"""

from __future__ import annotations

from launcher.status import figures
from launcher.status.history import History
from launcher.status.worlds import Axis, World


def mean_speed(history: History, axis: Axis) -> dict[str, float | None]:
    """The rates of a whole run, with the keys of ``figures.speed``.

    Steps that were done again count once, and the time that both took counts. Until the first step
    is completed nothing counts.

    Args:
        history: of its events.
        axis: of its worlds.
    """
    worlds = [world for world in axis.worlds if world.phases]
    if not worlds:
        return dict(figures.NOTHING)
    begins, earliest = worlds[0].stepped, worlds[0].generation
    first = (earliest.start or 0) + 1 if earliest.said is None else earliest.said
    seconds, steps = worlds[-1].ends - begins, history.step - first
    if not (seconds > 0 and steps > 0):
        return dict(figures.NOTHING)
    told = [one for world in worlds for one in world.generation.distinct()]
    counted = [one for one in told if one.samples]
    sampled = sum(one.last - one.first + 1 for one in counted)
    samples = steps / seconds * sum(one.samples for one in counted) / sampled if sampled else None
    timed = [one for one in told if one.data_wait is not None and one.seconds > 0]
    waited = sum(max(0.0, one.data_wait or 0.0) for one in timed)
    work = history.work(worlds[-1].generation)
    part = min(1.0, waited / sum(one.seconds for one in timed)) if timed else None
    peak = _peak(history, worlds, begins) / seconds
    return figures.rates(steps / seconds, samples, work._replace(peak=peak), part)


def _peak(history: History, worlds: list[World], since: float) -> float:
    """Operations that the GPUs of all worlds could have computed, each until its last step."""
    total = 0.0
    for world in worlds:
        peak = history.work(world.generation).peak
        if not peak:
            return 0.0  # of one of them nobody knows
        total += peak * max(0.0, world.ends - since)
        since = max(since, world.ends)
    return total
