"""A fleet that changes its machines while it trains, from ``swell launch`` on: see recovery.py.

Its VMs are processes on this machine, one for each job; the market is the emulator's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from launcher.status.status import read_status
from launcher.supervision.attempt import read_attempts
from stamps import Stamp, read_stamps
from trainer.rundir.attempts import ENDED, REPLACED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, read_events

ROOT = Path(__file__).parents[1]
RUN = "moving"
STAGES = ("paused", "generation_formed", "resumed")  # events, in their order
Gap = tuple[float, float]  # Unix seconds
LIMIT = 300.0  # seconds, for anything to happen
WATCH = 0.2  # seconds between two looks
WARM = 15  # steps of a world that trains
JOB = """
name: moving
task: jobs.fit:Mlp
fleet: {jobs}
regions: [us-central1]
pools: [a2-highgpu-1g]
elastic: {{start_wait: 1s}}
checkpoint: {{every: 1h}}
local: {{vm: process{market}}}
env: {env}
{more}"""
# Spot VMs are to be had after half a minute; until then one is tried beside the dear one.
NO_SPOT = ", market: {capacity: [{machine: a2-highgpu-1g, vms: {0s: 0, 30s: 1}}]}"
DEAR = """\
fallback: [{strategy: standard}]
resubmit: {pause: 1s, longest: 1s, patience: 2s, back: 2s}
"""


@dataclass(frozen=True)
class Change:
    """What is asked of a run.

    Attributes:
        jobs: that it has before.
        command: what is asked, for ``swell``; nothing where it changes by itself.
        after: how many it has afterwards.
        gone: how many attempts have been replaced then.
        market: the emulator's, as it goes on in the job file's ``local``.
        more: lines of the job file.
    """

    jobs: int
    command: tuple[str, ...]
    after: int
    gone: int
    market: str = ""
    more: str = ""


CHANGES: Mapping[str, Change] = {
    "move": Change(1, ("move", RUN, "--region", "us-east1"), 1, 1),
    "resize up": Change(1, ("resize", RUN, "--jobs", "2"), 2, 0),
    "resize down": Change(2, ("resize", RUN, "--jobs", "1"), 1, 1),
    "back to Spot": Change(1, (), 1, 1, NO_SPOT, DEAR),
}


@dataclass(frozen=True)
class Moved:
    """What a change did to training.

    Attributes:
        seconds: from the command, or from when it trained, until the old jobs had ended, or the
            new ones trained.
        pause: the longest time between two steps meanwhile.
        change: the longest of those in which a new world was formed.
        stages: of that, until each event of a world's change, and from the last one to the step.
        lost: steps that had been completed, and were done again.
    """

    seconds: float
    pause: float
    change: float
    stages: Mapping[str, float]
    lost: int

    @classmethod
    def of(cls, seconds: float, found: list[Gap], events: list[Event], lost: int) -> Moved:
        """Made of the times between two steps, and of the run's events."""
        times = {name: [it["time"] for it in events if it["event"] == name] for name in STAGES}
        formed = times["generation_formed"]
        changes = [gap for gap in found if any(gap[0] < at < gap[1] for at in formed)]
        begin, end = max(changes, key=length)
        stages, last = {}, begin
        for name in STAGES:
            at = min((one for one in times[name] if last <= one <= end), default=last)
            stages[name], last = at - last, at
        stages["next step"] = end - last
        return cls(seconds, max(map(length, found)), end - begin, stages, lost)


class Fleet:
    """A run that trains, until it is closed.

    Args:
        folder: where all of it is.
        env: what is trained; see jobs/mlp.py.
        change: what will be asked of it.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], change: Change) -> None:
        self._env = {**os.environ, **env, "SWELL_HOME": str(folder / "home")}
        own = {name: value for name, value in env.items() if name != "PYTHONPATH"}
        self._run_dir = folder / "home" / "runs" / RUN
        self._stamps = folder / "stamps"
        self._stamps.mkdir()
        own["MLP_STAMPS"] = str(self._stamps)
        job = folder / "job.yaml"
        job.write_text(
            JOB.format(
                jobs=change.jobs, env=json.dumps(own), market=change.market, more=change.more
            )
        )
        self._launch = self._swell("launch", str(job), "--run-id", RUN)

    def trains(self, size: int) -> bool:
        """Whether a world of so many workers does."""
        last = self.stamps()[-WARM * size :]
        return len(last) == WARM * size and all(one.size == size for one in last)

    def stamps(self) -> list[Stamp]:
        """All of its workers' so far."""
        return read_stamps(self._stamps)

    def replaced(self) -> int:
        """How many of its attempts are over because others train in their place."""
        records = read_attempts(RunDirectory(str(self._run_dir)))
        return sum(it["state"] in ENDED and it["kind"] == REPLACED for it in records)

    def lost(self) -> int:
        """Steps that were completed, and done again."""
        return int(read_status(RunDirectory(str(self._run_dir)))["steps_lost"])

    def events(self) -> list[Event]:
        """What has happened."""
        return [*read_events(RunDirectory(str(self._run_dir)))]

    def ask(self, *command: str) -> None:
        """Asks it to be another."""
        if self._swell(*command).wait():
            raise RuntimeError(f"swell {' '.join(command)} failed")

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for it; RuntimeError if that does not come."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > deadline or self._launch.poll() is not None:
                raise RuntimeError("the run has not come so far")
            time.sleep(WATCH)

    def close(self) -> None:
        """Ends it."""
        self._swell("cancel", RUN).wait()
        self._launch.wait()

    def _swell(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher.cli", *command],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def moved(change: Change, folder: Path, env: Mapping[str, str]) -> Moved:
    """One change, once."""
    fleet = Fleet(folder, env, change)
    try:
        fleet.until(lambda: fleet.trains(change.jobs))
        event = time.time()
        if change.command:
            fleet.ask(*change.command)
        fleet.until(lambda: fleet.replaced() >= change.gone and fleet.trains(change.after))
        until = time.time()
        return Moved.of(until - event, gaps(fleet.stamps(), event), fleet.events(), fleet.lost())
    finally:
        fleet.close()


def gaps(stamps: list[Stamp], event: float) -> list[Gap]:
    """The times after ``event`` between the first to complete a step and the next step's."""
    first: dict[int, float] = {}
    for one in stamps:
        first.setdefault(one.step, one.time)
    return [*pairwise(at for _, at in sorted(first.items()) if at > event)]


def length(gap: Gap) -> float:
    """Its seconds."""
    return gap[1] - gap[0]
