"""Whole runs by the policy alone: no API, no run directory, and no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from launcher.job.job import Job
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.policy import (
    Action,
    Done,
    End,
    Situation,
    Stop,
    Submit,
    Terms,
    Wait,
    decide,
)
from trainer.rundir.attempts import REFUSED

STOCKOUT = "Resources are insufficient in region: here. Try a different region."


def job(**fields: Any) -> Job:
    """A job of two pools that may run in two regions."""
    return Job.model_validate(
        {
            "name": "job",
            "task": "my.tasks:Task",
            "regions": ["us-central1", "us-east4"],
            "pools": ["a3-highgpu-8g", "3 x a3-highgpu-8g"],
            "elastic": {"min_workers": 8},
            **fields,
        }
    )


def ends(after: float, state: str = "FAILED", **more: Any) -> dict[str, Any]:
    """What becomes of an attempt: how it ends, ``after`` so many seconds."""
    return {"after": after, "state": state, **more}


def stockout(after: float = 60.0) -> dict[str, Any]:
    return ends(after, reason=STOCKOUT, code=8)


def refused(kind: str, code: int) -> dict[str, Any]:
    return ends(0.0, REFUSED, kind=kind, code=code, reason=f"{code} {kind}")


def ran(hours: float, state: str = "FAILED", step: int = 0, **more: Any) -> dict[str, Any]:
    """An attempt that has had its machines for ``hours``."""
    return ends(hours * 3600, state, started=True, step=step, **more)


Fate = Callable[[int, Choice, float], dict[str, Any]]


class PolicyRun:
    """The history of a run, as the policy and the fates of its attempts make it.

    Args:
        job: what is run.
        fate: returns what becomes of an attempt from its number, its choice and the time.
        rate: what every choice costs in USD per hour.
    """

    def __init__(self, job: Job, fate: Fate, rate: float | None = None) -> None:
        choices = tuple(choices_of(job, "local"))
        self.terms = Terms("run-1", choices, 0.0, job.resubmit, job.limits, stop_grace=600.0)
        self.attempts: list[Attempt] = []
        self.times: list[float] = []  # at which attempts were submitted
        self.waits: list[float] = []
        self.now = 0.0
        self.stopped_at: float | None = None
        self.end: End | None = None
        self._fate = fate
        self._rate = rate
        self._play()

    @property
    def regions(self) -> list[str]:
        return [attempt.region for attempt in self.attempts]

    @property
    def choices(self) -> list[str]:
        return [attempt.choice for attempt in self.attempts]

    def _play(self) -> None:
        for _ in range(1000):
            if self.end is not None:
                return
            action = self._decide()
            if isinstance(action, Submit):
                self._submit(action)
            elif isinstance(action, Wait):
                assert action.until > self.now
                self.waits.append(action.until - self.now)
                self.now = action.until
            elif isinstance(action, End):
                self.end = action
            else:
                raise AssertionError(f"{action} while nothing runs")
        raise AssertionError("the run goes on for ever")

    def _decide(self, **more: Any) -> Action:
        [action] = decide(self.terms, Situation(tuple(self.attempts), **more), self.now)
        return action

    def _submit(self, submit: Submit) -> None:
        assert submit.attempt == len(self.attempts) + 1
        self.times.append(self.now)
        fate = dict(self._fate(submit.attempt, submit.choice, self.now))
        end = self.now + fate.pop("after")
        started = self.now if fate.pop("started", False) else None
        attempt = Attempt(
            submit.attempt,
            submit.choice.region,
            "x",
            submit.choice.name,
            job=f"job-{submit.attempt}",
            state="RUNNING" if started is not None else "PENDING",
            created=self.now,
            submitted=self.now,
            started=started,
            usd_per_hour=self._rate,
        )
        self.attempts.append(attempt)
        while self.now < end:  # a look every ten minutes
            action = self._decide()
            if isinstance(action, Stop):
                self.stopped_at = self.now
                action = End("limited", action.reason)  # the trainer does so, with a checkpoint
            if isinstance(action, End):
                self.end = action
                self.attempts[-1] = replace(attempt, state="CANCELLED", ended=self.now)
                assert isinstance(self._decide(outcome={"state": "limited"}), Done)
                return
            self.now = min(end, self.now + 600)
        self.attempts[-1] = replace(attempt, ended=end, **fate)
