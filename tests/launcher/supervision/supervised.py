"""A run directory, a Vertex AI in memory, and supervisors of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from launcher.job.customjob import ATTEMPT_LABEL, CustomJob
from launcher.supervision.asked import Asked
from launcher.supervision.attempt import Attempt, read_attempts
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.duty import Duty
from launcher.supervision.fleet import Fleet
from launcher.supervision.policy import Terms
from launcher.supervision.replacement import Inside
from launcher.supervision.supervisor import Supervisor
from launcher.supervision.wanted import Change, Ways, changed, fleet_of, launched, moved, ways_of
from launcher.target import SETTLE, JobsApi, Target
from tests.launcher.faked_vertex import Clock, Looks, Region, Vertex
from tests.launcher.supervision.policy_run import job
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.wanted import Wanted, create_wanted, newest_wanted

Wrap = Callable[[Region], JobsApi]
ONE = Fleet()


class Fixture:
    """One run directory, one Vertex AI, and as many supervisors as are asked for."""

    def __init__(
        self,
        path: Path,
        lives: Callable[[int], Looks],
        fleet: Fleet = ONE,
        timeout: str | None = None,
        ways: Mapping[str, Any] = MappingProxyType({}),
        **limits: Any,
    ) -> None:
        self.run_dir = RunDirectory(str(path))
        self.clock = Clock()
        self.vertex = Vertex(lives, self.clock)
        self.sent: list[tuple[int, str]] = []
        self.job = job(limits=limits, timeout=timeout, fleet=fleet.jobs, **ways)
        self.fleet = fleet
        self.most_wanted = fleet.jobs

    def supervisor(
        self,
        wrap: Wrap = lambda region: region,
        stop_grace: float = 600.0,
        patience: float | None = None,
        usd_per_hour: float | None = None,
        ticks: Callable[[], float] | None = None,
        ahead: float = 0.0,
        unreached: Callable[[], dict[int, str]] = dict,
        last_words: Callable[[int, str, str], str] = lambda attempt, job, reason: "",
        duty: Duty | None = None,
        settle: float = SETTLE,
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
            renews=True,
            stop_grace=stop_grace,
        )

        def terms_of(wanted: Wanted) -> Terms:
            ways = ways_of(self.job, "local", None, wanted)
            fleet = replace(fleet_of(self.job, ways, wanted), anchor=self.fleet.anchor)
            return replace(terms, choices=ways.choices, fleet=fleet)

        target = Target(
            lambda region: wrap(self.vertex.region(region)),
            poll=10.0,
            patience=patience,
            settle=settle,
        )
        return Supervisor(
            self.run_dir,
            Asked(self.run_dir, terms, launched(self.job, self._ways(), 1000.0), terms_of),
            target,
            request,
            unreached=unreached,
            last_words=last_words,
            world=self.world,
            duty=duty,
            clock=lambda: self.clock() + ahead,
            ticks=ticks or self.clock,
            sleep=self.clock.sleep,
        )

    def _ways(self, wanted: Wanted | None = None) -> Ways:
        return ways_of(self.job, "local", None, wanted)

    def world(self) -> Inside:
        """All that run are in the world, but those that were told to leave it."""
        wanted = newest_wanted(self.run_dir)
        leave = wanted.leave if wanted is not None else ()
        running = [it for it in self.vertex.jobs.values() if it.state.state == "RUNNING"]
        numbers = [int(it.state.labels[ATTEMPT_LABEL]) for it in running]
        return Inside({number: 99 for number in numbers if number not in leave}, trains=True)

    def asking(self, jobs: int, region: str, state: str = "RUNNING") -> Callable[[], str]:
        """A look meanwhile which somebody asks for another fleet, once."""

        def look() -> str:
            before = newest_wanted(self.run_dir) or launched(self.job, self._ways(), 1000.0)
            if before.region != region:
                change = Change(jobs, region)
                ways = self._ways(before), self._ways(moved(before, change))
                asked = changed(self.job, before, change, ways, "somebody", self.clock())
                assert create_wanted(self.run_dir, asked)
                self.most_wanted = max(self.most_wanted, jobs)
            return state

        return look

    def run(self, **more: Any) -> dict[str, Any]:
        outcome = self.supervisor(**more).run()
        assert not self.vertex.alive
        assert self.vertex.most_alive <= self.most_wanted
        return outcome

    @property
    def attempts(self) -> list[Attempt]:
        return [Attempt.from_json(record) for record in read_attempts(self.run_dir)]

    def events(self) -> list[str]:
        return [event["event"] for event in read_events(self.run_dir)]

    def ending(self, state: Any, reason: str, told: str = "RUNNING") -> Callable[[], str]:
        """A look that sees the run end meanwhile, and the job as ``told``."""

        def look() -> str:
            self.run_dir.end(state, reason)
            return told

        return look
