"""The events of a run that rode the market: three replicas, a drain, a loss."""

from __future__ import annotations

from typing import Any

from trainer.rundir.events import Event


def event(name: str, at: float, **fields: Any) -> Event:
    return {"event": name, "time": at, **fields}


def formed(generation: int, at: float, cause: str, members: list[str]) -> Event:
    return event(
        "generation_formed",
        at,
        generation=generation,
        world_size=len(members),
        cause=cause,
        members=members,
    )


def resumed(generation: int, at: float, cause: str, step: int, **more: Any) -> Event:
    return event("resumed", at, generation=generation, cause=cause, step=step, **more)


def first(generation: int, at: float, step: int, seconds: float) -> Event:
    """A world completes its first step, so many seconds after it has begun."""
    return event("first_step", at, generation=generation, step=step, seconds=seconds)


def steps(
    generation: int,
    at: float,
    first: int,
    losses: list[Any],
    seconds: float | None = None,
    **more: Any,
) -> Event:
    told = {"count": len(losses), "seconds": seconds} if seconds is not None else {}
    metrics = {"loss": losses}
    return event("steps", at, generation=generation, first=first, metrics=metrics, **told, **more)


A, B, C = "workerpool0-0", "workerpool1-0", "workerpool1-1"
RIDE = [
    formed(1, 98.0, "start", [A, B, C]),
    resumed(1, 99.0, "start", 0, lost_steps=0),
    first(1, 101.0, 1, 2.0),
    steps(1, 110.0, 1, [3.0] * 10, 9.0),
    event("drain", 111.0, member=B, reason="notice", deadline_seconds=5.0),
    formed(2, 111.5, "drain", [A, C]),
    resumed(2, 112.0, "drain", 10, lost_steps=0, seconds=1.0),
    first(2, 113.0, 11, 1.0),
    steps(2, 121.0, 11, [2.0] * 5, 8.0),
    event("loss", 122.0, member=C, reason="silent"),
    formed(3, 123.0, "loss", [A]),
    resumed(3, 124.0, "loss", 14, lost_steps=1, seconds=3.0),
    first(3, 126.0, 15, 2.0),
    steps(3, 141.0, 15, [1.5, 1.0], 15.0),
    event("evaluated", 141.0, step=16, metrics={"test_accuracy": 0.9}),
    event("leader_changed", 97.0, term=1, member=A, attempt=1),
]
# VMs' seconds. Steps 1 to 10 of three VMs, of which the first has taken a second longer than the
# others; steps 11 to 15 of two, of which the last was done again; steps 15 and 16 of one.
RIDE_TRAINED = 3 * (1.0 + 9.0) + 2 * (1.0 + 8.0 * 3 / 4) + (2.0 + 15.0)
RIDE_REPEATED = 2 * 8.0 / 4
# From 98 on, until 110 three of them; B was there until the next world formed, 0.5 s before that
# began at 111, and two until 120; one until 140, as the workers' own clocks tell.
RIDE_THERE = 3 * 12.0 + 1 * 0.5 + 2 * 10.0 + 1 * 20.0
