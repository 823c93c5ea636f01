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


def steps(generation: int, at: float, first: int, losses: list[Any]) -> Event:
    return event("steps", at, generation=generation, first=first, metrics={"loss": losses})


A, B, C = "workerpool0-0", "workerpool1-0", "workerpool1-1"
RIDE = [
    formed(1, 100.0, "start", [A, B, C]),
    resumed(1, 100.0, "start", 0, lost_steps=0),
    steps(1, 110.0, 1, [3.0] * 10),
    event("drain", 111.0, member=B, reason="notice", deadline_seconds=5.0),
    formed(2, 112.0, "drain", [A, C]),
    resumed(2, 112.0, "drain", 10, lost_steps=0, seconds=1.0),
    steps(2, 120.0, 11, [2.0] * 5),
    event("loss", 121.0, member=C, reason="silent"),
    formed(3, 123.0, "loss", [A]),
    resumed(3, 123.0, "loss", 14, lost_steps=1, seconds=3.0),
    steps(3, 140.0, 15, [1.5, 1.0]),
    event("evaluated", 140.0, step=16, metrics={"test_accuracy": 0.9}),
]
