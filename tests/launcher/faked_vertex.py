"""Vertex AI, faked in memory: jobs that live on whatever becomes of their launcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.api.apierror import ApiError
from launcher.api.vertex import TERMINAL, JobState
from launcher.job.customjob import ATTEMPT_LABEL, CONTROLLER_LABEL, CustomJob

Looks = list[str | Callable[[], str]]  # what the looks at a job see, one after the other


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Job:
    """One CustomJob: ``looks`` are the states it goes through, one a look."""

    state: JobState
    looks: Looks


class Vertex:
    """All regions, and all CustomJobs in them.

    Args:
        lives: what becomes of each attempt, from the number in its labels.
        clock: returns Unix seconds.

    Attributes:
        jobs: all there were, but for controllers.
        controllers: these; they run until somebody ends them.
        most_alive: how many jobs at a time.
        most_controllers: how many of these.
    """

    def __init__(self, lives: Callable[[int], Looks], clock: Clock) -> None:
        self.jobs: dict[str, Job] = {}
        self.controllers: dict[str, Job] = {}
        self.most_alive = self.most_controllers = 0
        self.calls = 0
        self._lives = lives
        self._clock = clock

    def region(self, name: str) -> Region:
        return Region(self, name)

    @property
    def alive(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not job.state.ended]

    def create(self, region: str, request: CustomJob) -> JobState:
        labels = {str(k): str(v) for k, v in request["labels"].items()}
        if CONTROLLER_LABEL in labels:
            return self._create_controller(region, labels)
        name = f"projects/p/locations/{region}/customJobs/{len(self.jobs) + 1}"
        state = JobState(name, "QUEUED", labels=labels, created=self._clock())
        self.jobs[name] = Job(state, list(self._lives(int(labels[ATTEMPT_LABEL]))))
        self.most_alive = max(self.most_alive, len(self.alive))
        return state

    def _create_controller(self, region: str, labels: dict[str, str]) -> JobState:
        name = f"projects/p/locations/{region}/customJobs/{900 + len(self.controllers)}"
        state = JobState(name, "PENDING", labels=labels, created=self._clock())
        self.controllers[name] = Job(state, ["RUNNING"])
        live = sum(not job.state.ended for job in self.controllers.values())
        self.most_controllers = max(self.most_controllers, live)
        return state

    def end(self, name: str, told: str) -> None:
        """A controller's CustomJob ends."""
        self._become(self.controllers[name], told)

    def look(self, name: str) -> JobState:
        job = self.jobs.get(name) or self.controllers[name]
        if not job.state.ended and job.looks:
            look = job.looks.pop(0)
            self._become(job, look if isinstance(look, str) else look())
        return job.state

    def cancel(self, name: str) -> None:
        job = self.jobs.get(name) or self.controllers[name]
        if job.state.ended:
            raise ApiError("SW0001", "it has ended", code=400)
        self._become(job, "CANCELLED")

    def _become(self, job: Job, told: str) -> None:
        state, _, reason = told.partition(": ")
        times: dict[str, Any] = {}
        if state == "RUNNING" and not job.state.started:
            times["started"] = self._clock()
        if state in TERMINAL:
            times["finished"] = self._clock()
        job.state = replace(job.state, state=state, reason=reason, **times)


class Region:
    """The API in one region."""

    endpoint = "http://vertex"

    def __init__(self, vertex: Vertex, region: str) -> None:
        self.region = region
        self._vertex = vertex

    def submit(self, request: CustomJob) -> JobState:
        return self._vertex.create(self.region, request)

    def find(self, run_id: str | None = None, attempt: int | None = None) -> Sequence[JobState]:
        return [
            job.state
            for name, job in self._vertex.jobs.items()
            if f"/{self.region}/" in name and job.state.labels[ATTEMPT_LABEL] == str(attempt)
        ]

    def find_controller(self, run_id: str, number: int) -> Sequence[JobState]:
        jobs = [job.state for job in self._vertex.controllers.values()]
        return [it for it in jobs if it.labels[CONTROLLER_LABEL] == str(number)]

    def get(self, name: str) -> JobState:
        return self._vertex.look(name)

    def cancel(self, name: str) -> None:
        self._vertex.cancel(name)
