"""The market file's incidents at work: what ``market.incidents`` decides befalls a running job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from launcher.emulator.jobs.lifecycle import Replica, ReplicaState
from launcher.emulator.market.exchange import Exchange
from launcher.emulator.market.incidents import Action, Incident, Progress, due, needs_steps
from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import JobState, Json
from launcher.job.customjob import ATTEMPT_LABEL

if TYPE_CHECKING:
    from launcher.emulator.market.progress import StepReader

POLL = 0.25  # seconds

log = logging.getLogger(__name__)


class Victim(Protocol):
    """A job, as its incidents see it."""

    @property
    def state(self) -> JobState:
        """The job's state."""

    @property
    def ending(self) -> bool:
        """Whether the job's end is decided."""

    def replica(self, name: str) -> Replica | None:
        """The replica of that name, if the job has one."""

    def preempt(self, replica: str, notice: timedelta | None) -> None:
        """Takes the replica's VM away, silently without ``notice``."""

    def restore(self, replica: str) -> None:
        """Gives the replica's VM back."""


class IncidentInjector:
    """Makes incidents happen to one job; each happens once in a run, whichever job it hits.

    Args:
        incidents: the market file's.
        exchange: has the market's time, and keeps what has happened in the run.
        record: the CustomJob, whose output directory tells the run and its steps.
    """

    def __init__(self, incidents: Sequence[Incident], exchange: Exchange, record: Json) -> None:
        self._incidents = incidents
        self._exchange = exchange
        self._attempt = str(record.get("labels", {}).get(ATTEMPT_LABEL, ""))
        self._is_controller = customjobs.is_controller(record)
        self._output = customjobs.output_directory(record)
        self._progress = exchange.progress(self._output or record["name"])

    async def run(self, job: Victim, since: float) -> None:
        """Lets happen what is due, while the job runs, until it ends or all is over.

        Args:
            job: the job.
            since: when it became RUNNING, in the market's time.
        """
        if not self._incidents or self._is_controller:  # which is none of the market's
            return
        step = 0
        steps = await asyncio.to_thread(_step_reader, self._output)
        while not job.ending and not all(past.over for past in self._progress):
            if needs_steps(self._incidents, self._progress):
                step = await asyncio.to_thread(steps.completed)
            now = self._exchange.now
            for action in due(
                self._incidents, self._progress, now=now, running_since=since, step=step
            ):
                self._act(job, action, now)
            await asyncio.sleep(POLL)

    def _act(self, job: Victim, action: Action, now: float) -> None:
        if job.ending:  # the action before may have seen to that
            return
        if action.kind == "strike":
            self._strike(job, action.incident, now)
        else:
            self._give_back(job, action.incident)

    def _strike(self, job: Victim, number: int, now: float) -> None:
        incident = self._incidents[number]
        name = self._own(incident)
        if name is None:
            return
        replica = job.replica(name)
        state = replica.state if replica else None
        if job.state is not JobState.RUNNING or state is ReplicaState.STARTING:
            return  # for now
        hit = state is ReplicaState.RUNNING
        self._progress[number] = Progress(now, over=incident.back is None or not hit)
        self._exchange.save()  # first: who is killed in between must not take it twice
        if hit:
            job.preempt(name, incident.notice)
        else:
            log.warning("the market finds no running %s to take", incident.replica)

    def _give_back(self, job: Victim, number: int) -> None:
        name = self._own(self._incidents[number])
        if name is None:
            return
        self._progress[number] = Progress(self._progress[number].struck, over=True)
        replica = job.replica(name)
        if replica and replica.state is ReplicaState.NOTICED:
            said = "%s comes back before its notice is over: it goes at once"
            log.warning(said, self._incidents[number].replica)
        if replica and replica.withheld:
            job.restore(name)
        self._exchange.save()  # last: what is not given back would stay away

    def _own(self, incident: Incident) -> str | None:
        """What the job calls the replica that an incident is of; None if that is another job's."""
        attempt, _, name = incident.replica.rpartition("/")
        return name if attempt in ("", self._attempt) else None


def _step_reader(output: str | None) -> StepReader:
    from launcher.emulator.market.progress import StepReader  # fsspec: not for every emulator

    return StepReader(output)
