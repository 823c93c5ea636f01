"""The simulated Spot market: which VM is taken away when, and when it comes back. Pure.

A market is a list of incidents, as in a job file::

    - {at: 150 steps, preempt: workerpool1-0, notice: 5s, back: 350 steps}
    - {at: 20s, vanish: workerpool1-2, back: 10s}

``at`` counts the run's completed steps, or the time since the job is RUNNING; ``back``
counts steps too, or the time since the incident. Without ``back`` the VM stays away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from launcher.durations import Steps, parse_duration, parse_moment

DEFAULT_NOTICE = timedelta(seconds=30)  # what Compute Engine gives
REPLICA = re.compile(r"workerpool[0-3]-\d{1,4}")


@dataclass(frozen=True)
class Incident:
    """One VM goes away, and perhaps comes back.

    Args:
        replica: whose VM, such as ``workerpool1-0``.
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
    """What has happened of one incident: when it struck on the caller's clock, and whether it is
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
        now: seconds on any clock.
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


def parse_market(value: Any) -> list[Incident]:
    """Returns the incidents of a parsed market file; ValueError names entry, field and remedy."""
    if not isinstance(value, list):
        raise ValueError("the market must be a list of incidents")
    return [_incident(item, f"market[{index}]") for index, item in enumerate(value)]


FIELDS = ("at", "preempt", "vanish", "notice", "back")


def _incident(item: Any, where: str) -> Incident:
    if not isinstance(item, dict):
        raise ValueError(f"{where} must be an object with {', '.join(FIELDS)}")
    if unknown := sorted(set(item) - set(FIELDS)):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    # Whoever writes all fields out leaves unused ones null.
    given = {field: value for field, value in item.items() if value is not None}
    if "at" not in given:
        raise ValueError(f"{where}.at is missing: say when, such as 150 steps or 20s")
    if ("preempt" in given) == ("vanish" in given):
        raise ValueError(f"{where} needs either preempt or vanish, with a replica's name")
    kind = "preempt" if "preempt" in given else "vanish"
    replica = given[kind]
    if not isinstance(replica, str) or not REPLICA.fullmatch(replica):
        raise ValueError(f"{where}.{kind} must name a replica such as workerpool1-0")
    if kind == "vanish" and "notice" in given:
        raise ValueError(f"{where}.notice: a VM that vanishes gets no notice; use preempt")
    try:
        field = "at"
        at = parse_moment(given["at"])
        field = "notice"
        notice = parse_duration(given["notice"]) if "notice" in given else DEFAULT_NOTICE
        field = "back"
        back = parse_moment(given["back"]) if "back" in given else None
    except ValueError as error:
        raise ValueError(f"{where}.{field}: {error}") from None
    return Incident(replica, at, notice if kind == "preempt" else None, back)
