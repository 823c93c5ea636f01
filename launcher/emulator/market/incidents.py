"""Incidents of the Spot market: which VM is taken when, and when it comes back. Pure.

They are written in a market file or a job file::

    - {at: 150 steps, preempt: workerpool1-0, notice: 5s, back: 350 steps}
    - {at: 20s, vanish: workerpool1-2, back: 10s}

``at`` counts the run's completed steps, or the market's time since the job is RUNNING;
``back`` counts steps too, or the time since the incident. Without ``back`` the VM stays away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from launcher.job import marketfile
from launcher.job.durations import Steps

DEFAULT_NOTICE = timedelta(seconds=30)  # what Compute Engine gives


@dataclass(frozen=True)
class Incident:
    """One VM goes away, and perhaps comes back.

    Args:
        replica: whose VM, such as ``workerpool1-0``; ``3/workerpool1-0`` is one of attempt 3 alone.
        at: when.
        notice: how long before its end the VM is told; None for a silent loss.
        back: when the VM is given back, if ever.
    """

    replica: str
    at: Steps | timedelta
    notice: timedelta | None
    back: Steps | timedelta | None = None


@dataclass(frozen=True)
class Progress:
    """What has happened of one incident: when it struck on the market's clock, and whether it is
    over."""

    struck: float | None = None
    over: bool = False


@dataclass(frozen=True)
class Action:
    """What the market does now: incident number ``incident`` strikes or gives back."""

    kind: Literal["strike", "give_back"]
    incident: int


def due(
    market: Sequence[Incident],
    progress: Sequence[Progress],
    *,
    now: float,
    running_since: float,
    step: int,
) -> list[Action]:
    """Returns what is to happen now, in the market's order.

    Args:
        market: the incidents.
        progress: what has happened of each.
        now: seconds on the market's clock.
        running_since: when the job became RUNNING on that clock.
        step: the run's last completed step; 0 before the first.
    """
    actions: list[Action] = []
    for index, (incident, past) in enumerate(zip(market, progress, strict=True)):
        if past.over:
            continue
        if past.struck is None:
            if _reached(incident.at, step, now - running_since):
                actions.append(Action("strike", index))
        elif incident.back is not None and _reached(incident.back, step, now - past.struck):
            actions.append(Action("give_back", index))
    return actions


def _reached(moment: Steps | timedelta, step: int, elapsed: float) -> bool:
    if isinstance(moment, Steps):
        return step >= moment.count
    return elapsed >= moment.total_seconds()


def needs_steps(market: Sequence[Incident], progress: Sequence[Progress]) -> bool:
    """Whether the next thing to happen to any incident waits for a step."""
    return any(
        isinstance(incident.at if past.struck is None else incident.back, Steps)
        for incident, past in zip(market, progress, strict=True)
        if not past.over
    )


def from_file(incidents: Sequence[marketfile.Incident]) -> list[Incident]:
    """Returns the incidents of a market file."""
    return [
        Incident(
            one.replica,
            one.at,
            None if one.vanish else DEFAULT_NOTICE if one.notice is None else one.notice,
            one.back,
        )
        for one in incidents
    ]
