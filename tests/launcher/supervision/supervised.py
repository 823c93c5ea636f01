"""A run directory, a Vertex AI in memory, and supervisors of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.job.customjob import ATTEMPT_LABEL, CustomJob
from launcher.supervision.asked import Asked
from launcher.supervision.attempt import Attempt, read_attempts
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet
from launcher.supervision.policy import Terms
from launcher.supervision.supervisor import Supervisor
from launcher.target import JobsApi, Target
from tests.launcher.faked_vertex import Clock, Looks, Region, Vertex
from tests.launcher.supervision.policy_run import job
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

Wrap = Callable[[Region], JobsApi]
ONE = Fleet()


class Fixture:
    """One run directory, one Vertex AI, and as many supervisors as are asked for."""

    def __init__(
        self, path: Path, lives: Callable[[int], Looks], fleet: Fleet = ONE, **limits: Any
    ) -> None:
        self.run_dir = RunDirectory(str(path))
        self.clock = Clock()
        self.vertex = Vertex(lives, self.clock)
        self.sent: list[tuple[int, str]] = []
        self.job = job(limits=limits)
        self.fleet = fleet

    def supervisor(
        self,
        wrap: Wrap = lambda region: region,
        stop_grace: float = 600.0,
        patience: float | None = None,
        usd_per_hour: float | None = None,
        ticks: Callable[[], float] | None = None,
        ahead: float = 0.0,
        unreached: Callable[[], dict[int, str]] = dict,
    ) -> Supervisor:
        def request(number: int, choice: Choice) -> CustomJob:
            self.sent.append((number, choice.region))
            return {"labels": {ATTEMPT_LABEL: str(number)}}

        choices = tuple(
            replace(choice, usd_per_hour=usd_per_hour) for choice in choices_of(self.job, "local")
        )
        terms = Terms(
            "run-1",
            choices,
            1000.0 + ahead,
            self.job.resubmit,
            self.job.limits,
            self.fleet,
            stop_grace=stop_grace,
        )
        target = Target(
            lambda region: wrap(self.vertex.region(region)), poll=10.0, patience=patience
        )
        return Supervisor(
            self.run_dir,
            Asked(self.run_dir, terms),
            target,
            request,
            unreached=unreached,
            clock=lambda: self.clock() + ahead,
            ticks=ticks or self.clock,
            sleep=self.clock.sleep,
        )

    def run(self, **more: Any) -> dict[str, Any]:
        outcome = self.supervisor(**more).run()
        assert not self.vertex.alive
        assert self.vertex.most_alive <= self.fleet.jobs
        return outcome

    @property
    def attempts(self) -> list[Attempt]:
        return [Attempt.from_json(record) for record in read_attempts(self.run_dir)]

    def events(self) -> list[str]:
        return [event["event"] for event in read_events(self.run_dir)]

    def ending(self, state: Any, reason: str) -> Callable[[], str]:
        """A look that sees the run end meanwhile."""

        def look() -> str:
            self.run_dir.end(state, reason)
            return "RUNNING"

        return look
