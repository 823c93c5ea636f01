"""How long ``swell goodput`` takes for a run of 1,000 VMs and 1,000,000 steps, on a disk.

The run directory is made as the leader leaves it: compacted, but for the newest batches. Steps take
2.6 s and are reported one by one, each with what the ranks spent; every 2,778 steps a VM is lost,
and another comes: 360 worlds of 1,000 names. ``command`` is the whole command, ``ledger`` what it
computes from events that are in memory, ``intervals`` that of 100 parts of the run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.status.history import History
from launcher.status.ledger import Timeline
from rows import Case, Options, Row, benchmark
from trainer.rundir import formats
from trainer.rundir.compaction import DUE, Compaction
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events
from trainer.rundir.names import RUN

ROOT = Path(__file__).parents[1]
VMS, STEPS, QUICK = 1_000, 1_000_000, 20_000
STEP, WORLD = 2.592, 2_778
TOGETHER = 15_000  # steps of a batch: a segment by itself, so that none is written more than once
PARTS = 100
NAMES = [f"workerpool1-{number}" for number in range(VMS)]
ACCOUNTS = {"all": 2592.0, "communication": 120.0, "waiting": 75.0, "data_wait": 8.0}


class Clock:
    """Time as the run sees it, in Unix seconds."""

    def __init__(self, steps: int) -> None:
        self.now = time.time() - steps * STEP - 900.0

    def __call__(self) -> float:
        return self.now


def fill(run_dir: RunDirectory, steps: int) -> None:
    """Writes the run."""
    clock = Clock(steps)
    leader = EventWriter(run_dir, "leader-000001", clock)
    rank_0 = EventWriter(run_dir, "workerpool1-0-1", clock)
    compaction, newest = Compaction(run_dir, due=1), steps - 3 * DUE
    asked = {"replicas": VMS, "wanted": VMS, "usd_per_hour": 3e3, "on_demand": 9e3}
    leader.emit("attempt_started", attempt=1, job="j", region="us-central1", **asked)
    clock.now += 300.0
    for name in NAMES:
        leader.emit("member_joined", member=name, incarnation="0", term=1, age=20.0, slots=1)
        leader.emit("member_ready", member=name, term=1)
    for step in range(1, steps + 1):
        generation, within = divmod(step - 1, WORLD)
        more: dict[str, Any] = {"generation": generation + 1, "term": 1}
        if not within:
            form(leader, clock, step - 1, more)
        clock.now += STEP
        told: dict[str, Any] = {"metrics": {"loss": [1.0 / step]}, "accounts": ACCOUNTS}
        seconds = STEP if within else 0.0
        rank_0.emit("steps", first=step, count=1, seconds=seconds, age=0.0, **more, **told)
        if not within:
            rank_0.emit("first_step", step=step, seconds=STEP, **more)
        if step > newest or step % TOGETHER == 0:
            rank_0.flush()
            leader.flush()
        if step % TOGETHER == 0 or (newest < step <= steps - DUE and step % DUE == 0):
            compaction.round()
    leader.flush()
    run = {"id": "large", "target": "vertex", "settings": {}, "created": clock.now, "by": "me"}
    run_dir.write_json(RUN, {**run, **formats.RUN.stamp()})


def form(leader: EventWriter, clock: Clock, step: int, more: dict[str, Any]) -> None:
    """A VM is lost and comes again, and the next world forms."""
    generation, idle = more["generation"], None
    if generation > 1:
        name = NAMES[generation % VMS]
        leader.emit("loss", member=name, incarnation="0", reason="silent", gone=True, **more)
        incarnation = f"{generation:x}"
        clock.now += 60.0
        who = {"member": name, "incarnation": incarnation, "age": 20.0}
        leader.emit("member_joined", slots=1, **who, **more)
        leader.emit("member_ready", member=name, **more)
        idle = 61.0
    leader.emit("generation_formed", world_size=VMS, cause="loss", members=NAMES, **more)
    clock.now += 1.0
    leader.emit("resumed", cause="loss", step=step, seconds=idle, **more)


def of_a_large_run(options: Options) -> Iterator[Row]:
    """A run of a month on 1,000 VMs."""
    steps = QUICK if options.quick else STEPS
    case = f"{VMS:,} VMs, {steps:,} steps"
    with tempfile.TemporaryDirectory(prefix="swell-goodput-") as name:
        run_dir = RunDirectory(f"{name}/run")
        fill(run_dir, steps)
        clocks, cpus, computing, cut = [], [], [], []
        for _ in range(options.runs):
            wall, cpu = command(Path(name), "goodput", run_dir.url, "--json")
            clocks.append(wall)
            cpus.append(cpu)
            history = History(read_events(run_dir, brief=True))
            began = time.perf_counter()
            timeline = Timeline.of(history, time.time())
            assert timeline is not None
            ledger = timeline.between(timeline.start, timeline.end)
            computing.append(time.perf_counter() - began)
            assert ledger.goodput is not None and 0.5 < ledger.goodput < 0.95
            part = (timeline.end - timeline.start) / PARTS
            began = time.perf_counter()
            for number in range(PARTS):
                start = timeline.start + number * part
                timeline.between(start, start + part)
            cut.append(time.perf_counter() - began)
        yield Row.of("swell", case, "command", "s", clocks)
        yield Row.of("swell", case, "command, processor time", "s", cpus)
        yield Row.of("swell", case, "ledger", "s", computing)
        yield Row.of("swell", case, "intervals", "s", cut)


def command(home: Path, *words: str) -> tuple[float, float]:
    """Seconds that a command of ``swell`` takes, by the clock and of the processors."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "launcher.cli", *words],
        env={**os.environ, "SWELL_HOME": str(home), "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


CASES: Mapping[str, Case] = {"large": of_a_large_run}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES))
