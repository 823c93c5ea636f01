"""The Spot market at work: brings the VMs of all jobs in line with its capacity over time.

The decisions are ``market.py``'s. Here is the market's clock, which runs from the creation of
the emulator's first job and goes on while the emulator is down, as a real market would. Every
change of capacity is acted upon in its order, however fast the market's time runs: after an
emulator that was killed, the next one lets all that was missed befall the jobs that still run, each
change as if it were now (so a notice begins now, too).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from launcher.emulator.market.incidents import Progress
from launcher.emulator.market.market import Bid, capacity_of, grants, losses
from launcher.job.marketfile import Market
from trainer.rundir import clock
from trainer.rundir.private import write_private

LONGEST_SLEEP = 3600.0  # seconds

log = logging.getLogger(__name__)


class Trader(Protocol):
    """A job, as the market sees it."""

    def bid(self) -> Bid:
        """What the job has and wants now."""

    @property
    def stranded(self) -> bool:
        """Whether it waits for VMs and has none."""

    def grant(self, replicas: Sequence[str]) -> None:
        """There are VMs for these replicas, which its last bid wanted."""

    def take(self, replica: str, notice: timedelta | None) -> None:
        """The market takes a VM back, silently without ``notice``."""

    def refuse(self) -> None:
        """A restart of the stranded job has found no VM."""


class Exchange:
    """The market of one emulator.

    Args:
        market: what happens when.
        path: where its progress is kept over restarts of the emulator.
        clock: the time of day in seconds; the market's time is made from it.

    Raises TraceError when a trace of the market cannot be read.
    """

    def __init__(self, market: Market, path: Path, clock: Callable[[], float] = clock.now) -> None:
        self.market = market
        self._capacity = capacity_of(market)
        self._path = path
        self._clock = clock
        self._jobs: dict[int, Trader] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self._running: asyncio.Task[None] | None = None
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self._began: float | None = kept.get("began")
        self._jobs_so_far = int(kept.get("jobs", 0))
        # Up to when changes were acted upon.
        self._settled: float = kept.get("settled", -1.0)
        # Of each stranded job, in the market's time.
        self._next_try = {int(job): float(at) for job, at in kept.get("next_try", {}).items()}
        # An incident happens once in a run, however many jobs the run takes.
        self._progress = {
            run: [Progress(*each) for each in them] for run, them in kept.get("runs", {}).items()
        }

    @property
    def now(self) -> float:
        """Seconds since the market began, in its own time; 0 before."""
        began = self._clock() if self._began is None else self._began
        return (self._clock() - began) * self.market.speed

    def next_number(self) -> int:
        """The number of the next job: the market's lots are drawn by it, not by random ids."""
        self._jobs_so_far += 1
        self.save()
        return self._jobs_so_far

    def progress(self, run: str) -> list[Progress]:
        """What has happened of the market's incidents in a run; for its jobs to keep up to date."""
        count = len(self.market.incidents)
        progress = self._progress.setdefault(run, [])
        progress += [Progress()] * (count - len(progress))
        del progress[count:]  # of a market with more incidents, before a restart
        return progress

    def save(self) -> None:
        """Keeps the market's progress for the next emulator."""
        runs = {
            run: [(past.struck, past.over) for past in them]
            for run, them in self._progress.items()
            if any(past != Progress() for past in them)
        }
        kept = {
            "began": self._began,
            "jobs": self._jobs_so_far,
            "settled": self._settled,
            "next_try": self._next_try,
            "runs": runs,
        }
        try:
            write_private(self._path, json.dumps(kept))
        except OSError as problem:  # a full disk must not end the market
            log.error("the market's progress cannot be saved: %s", problem)

    def enter(self, number: int, job: Trader, again: bool = False) -> None:
        """A job takes part from now on; ``again`` if it did before the emulator was killed."""
        if self._began is None:
            self._began = self._clock()
            self.save()
        if not again:
            self._settle()  # what has happened before is not for this job
        self._jobs[number] = job
        self.wake()

    def leave(self, number: int) -> None:
        """A job has ended, and gives all its VMs back."""
        self._jobs.pop(number, None)
        self._next_try.pop(number, None)
        self.wake()

    def wake(self) -> None:
        """Something has changed in a job, or on the clock: look again soon."""
        self._changed.set()
        if self._running is None and not self._closed:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends all trade."""
        self._closed = True  # not a cancellation: asyncio.wait_for may swallow one before 3.12
        self._changed.set()
        if self._running:
            await self._running

    async def _run(self) -> None:
        while not self._closed:
            self._changed.clear()
            self._settle()
            try:
                await asyncio.wait_for(self._changed.wait(), self._until_next())
            except asyncio.TimeoutError:
                continue

    def _until_next(self) -> float:
        """Seconds of real time until something is due by itself."""
        change = self._capacity.next_change(self._settled)
        due = [*self._next_try.values(), *([] if change is None else [change])]
        if not due or not self._jobs:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(0.0, min(due) - self.now) / self.market.speed)

    def _settle(self) -> None:
        now = max(self.now, self._settled, 0.0)  # the time of day may be set back
        while (moment := self._next_moment(now)) is not None:
            self._trade(moment)
            self.save()
        self._trade(now)

    def _next_moment(self, now: float) -> float | None:
        """The first moment up to ``now`` that has not been acted upon."""
        change = self._capacity.next_change(self._settled)
        due = [*self._next_try.values(), *([] if change is None else [change])]
        return min((moment for moment in due if moment <= now), default=None)

    def _trade(self, moment: float) -> None:
        capacity, jobs = self._capacity, self._jobs
        began = self._moment_of_capacity(moment)
        for loss in losses(self._bids(), capacity, began, self.market.seed):
            jobs[loss.job].take(loss.replica, self.market.notice)
        for grant in grants(self._bids(), capacity, moment):
            jobs[grant.job].grant(grant.replicas)
        retry = self.market.retry.total_seconds()
        for number, job in list(jobs.items()):
            if not job.stranded:
                self._next_try.pop(number, None)
            elif moment >= self._next_try.setdefault(number, moment + retry):
                self._next_try[number] = self._next_try[number] + retry
                job.refuse()
        self._settled = max(self._settled, moment)

    def _moment_of_capacity(self, moment: float) -> float:
        """When the count that holds at ``moment`` began: the lots must not depend on when a
        VM was found to be too many."""
        earlier = self._capacity.changes(-1.0, moment)
        return earlier[-1] if earlier else 0.0

    def _bids(self) -> list[Bid]:
        return [job.bid() for job in self._jobs.values()]
