"""Vertex AI in simulation: the CustomJobs of one run, and the Spot market that gives them machines.

What becomes of a job, and who gets a machine, is decided by the emulator's own state machines
(``launcher.emulator``: the lifecycle, the market), in any of the three readings of what Vertex AI
does with the other machines of a job that loses one. Here are no machines, and no time but the one
that is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from launcher.emulator.jobs.lifecycle import (
    LIVING,
    Command,
    Lifecycle,
    ReplicaState,
    Rules,
    Start,
    StopAll,
    Survivors,
)
from launcher.emulator.market.market import Bid, Capacity, grants, losses
from launcher.emulator.resources.customjobs import JobState
from launcher.supervision.choices import Choice

LEAD = 300.0  # seconds from a machine to the first step of its worker
RETRY = 300.0  # seconds between two tries of a job that has no machine

Worker = tuple[int, str, int]  # the job's number, its replica, that one's incarnation


@dataclass
class CustomJob:
    """One simulated CustomJob.

    Attributes:
        number: of its attempt.
        choice: where and on what it runs.
        lifecycle: what has become of it.
        started: when all its machines were there for the first time.
    """

    number: int
    choice: Choice
    lifecycle: Lifecycle
    started: float | None = None
    _ready: dict[str, float] = field(default_factory=dict)  # when each replica's worker is
    _next_try: float | None = None

    @property
    def machines(self) -> int:
        """How many it has."""
        return sum(it.state in LIVING for it in self.lifecycle.replicas.values())

    def workers(self) -> Iterator[tuple[float, Worker]]:
        """Yields each worker that lives, with when it is ready to train."""
        for name, replica in self.lifecycle.replicas.items():
            if replica.state is ReplicaState.RUNNING:
                yield self._ready[name], (self.number, name, replica.incarnation)

    def bid(self) -> Bid:
        """What it has and wants of the market."""
        spot = self.choice.job.scheduling.strategy == "spot"
        [machine] = {pool.machine for pool in self.choice.job.pools}
        replicas, wanted = self.lifecycle.replicas, self.lifecycle.wanted
        return Bid(
            self.number,
            self.choice.region,
            dict.fromkeys(replicas, machine),
            limited=spot,
            takeable=spot,
            living=tuple(name for name, it in replicas.items() if it.state in LIVING),
            wanted=wanted.replicas,
            together=wanted.together,
        )

    def carry_out(self, commands: Iterable[Command], now: float) -> None:
        """Does what the lifecycle commands; there is nothing to kill."""
        for command in commands:
            if isinstance(command, Start):
                self._ready[command.replica] = now + LEAD
                self.lifecycle.started(command.replica, command.incarnation)
            elif isinstance(command, StopAll):
                self.lifecycle.stopped()
        if self.started is None and self.lifecycle.state is JobState.RUNNING:
            self.started = now

    def try_again(self, now: float) -> float | None:
        """Counts a try that found no machine, if one is due. Returns when the next one is."""
        if not self.lifecycle.stranded:
            self._next_try = None
        elif self._next_try is None:
            self._next_try = now + RETRY
        elif now >= self._next_try:
            self._next_try += RETRY
            self.carry_out(self.lifecycle.refused(), now)
        return self._next_try


class Cloud:
    """All that there is of Vertex AI for one run.

    Args:
        capacity: the machines that there are for the run, by region and time.
        survivors: what becomes of the other machines of a job that loses one.
        seed: decides which are lost.
    """

    def __init__(self, capacity: Capacity, survivors: Survivors, seed: int) -> None:
        self._capacity = capacity
        self._survivors = survivors
        self._seed = seed
        self._next_tries: list[float] = []
        self.jobs: dict[int, CustomJob] = {}  # those that are not over

    def submit(self, number: int, choice: Choice) -> None:
        """Takes the CustomJob of an attempt."""
        scheduling = choice.job.scheduling
        rules = Rules(
            choice.region,
            scheduling.restart_job_on_worker_restart,
            scheduling.disable_retries,
            self._survivors,
        )
        self.jobs[number] = CustomJob(number, choice, Lifecycle(choice.job.replicas(), rules))

    def cancel(self, number: int, now: float) -> None:
        """Ends a job because the launcher wants it."""
        job = self.jobs[number]
        job.carry_out(job.lifecycle.cancel(), now)

    def trade(self, now: float) -> list[CustomJob]:
        """Takes and gives machines as the market has them now. Returns the jobs that have ended."""
        for loss in losses(self._bids(), self._capacity, now, self._seed):
            job = self.jobs[loss.job]
            job.carry_out(job.lifecycle.taken(loss.replica, notice=None), now)
        over = self._leave()  # and their machines are free
        for grant in grants(self._bids(), self._capacity, now):
            job = self.jobs[grant.job]
            job.carry_out(job.lifecycle.granted(grant.replicas), now)
        tries = [job.try_again(now) for job in self.jobs.values()]
        self._next_tries = [at for at in tries if at is not None]
        return over + self._leave()

    def _leave(self) -> list[CustomJob]:
        over = [job for job in self.jobs.values() if job.lifecycle.state.terminal]
        for job in over:
            del self.jobs[job.number]
        return over

    def next_change(self, now: float) -> float:
        """When something may become different by itself, at the latest: the market, or a job."""
        change = self._capacity.next_change(now)
        ready = [at for job in self.jobs.values() for at, _ in job.workers() if at > now]
        changes = [] if change is None else [change]
        return min([*changes, *ready, *self._next_tries], default=math.inf)

    def workers(self, now: float) -> frozenset[Worker]:
        """Returns those that are ready to train."""
        return frozenset(
            worker for job in self.jobs.values() for at, worker in job.workers() if at <= now
        )

    def _bids(self) -> Sequence[Bid]:
        return [job.bid() for job in self.jobs.values()]
