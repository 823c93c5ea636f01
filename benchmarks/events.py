"""How quickly a run's events are read from a bucket whose every answer takes 30 ms.

The bucket is the emulated Cloud Storage, in this process; each figure is of a process of its own,
which has read nothing yet.

- ``month``: 1,000,000 steps of 2.6 s, each reported by itself, and some 10,000 other events, 360
  worlds and 60 attempts among them, as the leader has compacted them. ``swell status`` is the whole
  command; ``status`` what it reads; ``resubmission`` what the supervisor reads before it submits
  the next attempt; ``look`` what the live view reads again and again, here two batches.
- ``minutes``: batches that nobody has compacted, two a second for ten minutes; also as the commit
  BEFORE reads them, one after another. Of a month there would be 5,000,000.
- ``compaction``: what the leader spends to compact those.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from launcher.emulator.listener import Listener
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.server import Storage
from launcher.status.history import History
from launcher.status.status import read_status
from rows import Case, Options, Row, benchmark
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events
from trainer.rundir.names import RUN

ROOT = Path(__file__).parents[1]
BEFORE = "620c645"  # the last commit that reads one batch after another
ANSWER = "30ms"
MONTH, QUICK_MONTH = 1_000_000, 20_000  # steps
WORLD = 2_778  # steps of one world
ATTEMPT_EVERY, SAVE_EVERY, EVALUATE_EVERY = 16_667, 231, 1_389  # steps
STEP = 2.592  # seconds
TOGETHER = 2_000  # events of a batch of the month: as many as there are would take an hour to make
MINUTES, QUICK_MINUTES = 1_200, 100  # batches
WORLD_EVENTS = ("drain", "paused", "generation_formed", "member_joined", "member_ready", "resumed")


class Bucket:
    """An emulated bucket in a thread; from ``slow`` on, its answers take their time."""

    def __init__(self, folder: Path) -> None:
        objects = Objects(folder)
        objects.create_bucket("bucket")
        self._storage = Storage(objects)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    def slow(self) -> None:
        self._storage.faults.add({"path": "", "times": None, "delay": ANSWER})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = Listener(self._storage.app(), "127.0.0.1")
        listener.start()
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://{listener.authority}"
        self._ready.set()
        await self._stop.wait()
        await listener.stop()


@contextmanager
def bucket(fill: Callable[[RunDirectory], object]) -> Iterator[str]:
    """A bucket with a run directory that was filled on a disk. Yields its URL."""
    with tempfile.TemporaryDirectory(prefix="swell-events-") as name:
        made = RunDirectory(f"{name}/run")
        fill(made)
        served = Bucket(Path(name) / "bucket")
        try:
            run_dir = RunDirectory("gs://bucket/run")
            store = run_dir.store
            store.each(lambda file: store.write(file, made.store.read(file)), made.store.files())
            served.slow()
            yield run_dir.url
        finally:
            served.close()


# --- runs ---------------------------------------------------------------------------


class Clock:
    """Time as a run sees it, in Unix seconds."""

    def __init__(self) -> None:
        self.now = time.time() - MONTH * STEP

    def __call__(self) -> float:
        return self.now


def month(steps: int) -> Callable[[RunDirectory], None]:
    """A run of so many steps, as it is on a disk; its newest batches are not compacted yet."""

    def fill(run_dir: RunDirectory) -> None:
        from trainer.rundir.compaction import DUE, Compaction

        clock = Clock()
        leader = EventWriter(run_dir, "leader-000001", clock)
        compaction = Compaction(run_dir, due=1)
        rank_0, generation = leader, 0
        newest = steps - 3 * DUE
        for step in range(1, steps + 1):
            if step % WORLD == 1 % WORLD:
                generation = step // WORLD + 1
                rank_0 = EventWriter(
                    run_dir, f"workerpool0-{generation % 8}-{generation:04x}", clock
                )
                form(leader, generation, step - 1)
            if step % ATTEMPT_EVERY == 1:
                begin_attempt(run_dir, leader, step // ATTEMPT_EVERY + 1, clock.now)
            clock.now += STEP
            fields = {"count": 1, "seconds": STEP, "age": 0.0, "total_steps": steps}
            metrics = {"loss": [1.0 / step], "lr": [0.001]}
            rank_0.emit("steps", generation=generation, first=step, metrics=metrics, **fields)
            if step % SAVE_EVERY == 0:
                rank_0.emit("checkpoint_committed", step=step, bytes=10**10, seconds=8.5)
            if step % EVALUATE_EVERY == 0:
                rank_0.emit("evaluated", step=step, metrics={"accuracy": 0.5})
            if step > newest or step % TOGETHER == 0 or step % WORLD == 0:
                rank_0.flush()
                leader.flush()
            if step % TOGETHER == 0 or (newest < step <= steps - DUE and step % DUE == 0):
                compaction.round()
        leader.flush()
        run = {"id": "month", "target": "vertex", "settings": {}, "created": clock.now, "by": "me"}
        run_dir.write_json(RUN, {**run, **formats.RUN.stamp()})

    return fill


def form(leader: EventWriter, generation: int, step: int) -> None:
    """What a leader says of a new world."""
    members = [f"workerpool1-{number}" for number in range(8)]
    for name in WORLD_EVENTS:
        fields: dict[str, Any] = {"member": members[generation % 8], "incarnation": f"{generation}"}
        if name in ("generation_formed", "resumed"):
            fields = {"cause": "drain", "world_size": 8, "members": members}
        leader.emit(name, generation=generation, step=step, seconds=1.0, **fields)
    leader.emit("first_step", generation=generation, step=step + 1, seconds=1.0)


def begin_attempt(run_dir: RunDirectory, leader: EventWriter, number: int, now: float) -> None:
    """One attempt ends, and the next begins; none of them goes on."""
    from launcher.supervision.attempt import Attempt
    from trainer.rundir.attempts import record_name

    attempt = Attempt(number, "us-central1", "https://us-central1", "", created=now, state="FAILED")
    run_dir.write_json(record_name(number), attempt.to_json())
    leader.emit("attempt_ended", attempt=number, state="FAILED", verdict="preempted")
    leader.emit("attempt_started", attempt=number, job="j", region="us-central1")


def minutes(batches: int) -> Callable[[RunDirectory], None]:
    """A run that nobody has compacted."""

    def fill(run_dir: RunDirectory) -> None:
        ticks = count()
        writer = EventWriter(run_dir, "workerpool0-0-1", lambda: next(ticks) / 2)
        for step in range(1, batches + 1):
            fields = {"count": 1, "seconds": 0.5, "age": 0.0}
            metrics = {"loss": [1.0 / step], "lr": [0.001]}
            writer.emit("steps", generation=1, first=step, metrics=metrics, **fields)
            writer.flush()

    return fill


# --- what is measured, in a process of its own ----------------------------------------


def timed_status(url: str) -> float:
    """Seconds to read what ``swell status`` shows."""
    run_dir = RunDirectory(url)
    began = time.perf_counter()
    assert read_status(run_dir)["step"] > 0
    return time.perf_counter() - began


def timed_resubmission(url: str) -> float:
    """Seconds to find out how far a run is, as the supervisor does."""
    try:
        from launcher.oversight import completed_steps
    except ImportError:  # BEFORE

        def completed_steps(directory: RunDirectory) -> int:
            return History(read_events(directory)).step

    run_dir = RunDirectory(url)
    began = time.perf_counter()
    assert completed_steps(run_dir) > 0
    return time.perf_counter() - began


def timed_look(url: str) -> float:
    """Seconds of a look at two new batches, of a reader that has seen everything else."""
    from trainer.rundir.events import EventReader

    run_dir = RunDirectory(url)
    reader = EventReader(run_dir, brief=True)
    reader.read_new()
    writer = EventWriter(run_dir, f"workerpool0-0-{os.urandom(4).hex()}")
    for _ in range(2):
        writer.emit("evaluated", step=1, metrics={})
        writer.flush()
    began = time.perf_counter()
    assert len(reader.read_new()) == 2
    return time.perf_counter() - began


def spent_compacting(url: str) -> list[float]:
    """Seconds of this process's processors, and of the clock, to compact what is due; batches."""
    from trainer.rundir.compaction import DUE, Compaction
    from trainer.rundir.segments import read_index

    run_dir = RunDirectory(url)
    compaction = Compaction(run_dir, due=DUE)
    run_dir.store.names()  # what is imported by the first request
    cpu, began = time.process_time(), time.perf_counter()
    compaction.round()
    compaction.round()  # deletes what the first has put together
    spent = [time.process_time() - cpu, time.perf_counter() - began]
    return [*spent, float(sum(read_index(run_dir).covers.values()))]


def measured(what: Callable[[str], object], url: str, root: Path = ROOT) -> Any:
    """What one of these returns, in a process that has the modules of ``root``."""
    program = f"import json, events; print(json.dumps(events.{what.__name__}({url!r})))"
    # This file, whatever there is beside it.
    path = f"{root}:{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        cwd=root,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def command(url: str) -> tuple[float, float]:
    """Seconds that ``swell status`` takes, by the clock and of the processors."""
    with tempfile.TemporaryDirectory() as home:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "launcher.cli", "status", url, "--json"],
            env={**os.environ, "SWELL_HOME": home, "PYTHONPATH": str(ROOT)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


# --- cases ----------------------------------------------------------------------------


def of_a_month(options: Options) -> Iterator[Row]:
    """What is read of a long run."""
    steps = QUICK_MONTH if options.quick else MONTH
    case = f"{steps:,} steps"
    with bucket(month(steps)) as url:
        clock, cpu = zip(*(command(url) for _ in range(options.runs)), strict=True)
        yield Row.of("swell", case, "swell status", "s", clock)
        yield Row.of("swell", case, "swell status, processor time", "s", cpu)
        for name, what in (
            ("status", timed_status),
            ("resubmission", timed_resubmission),
            ("look", timed_look),
        ):
            yield Row.of(
                "swell", case, name, "s", [measured(what, url) for _ in range(options.runs)]
            )


def of_minutes(options: Options) -> Iterator[Row]:
    """What is read of batches that nobody has compacted."""
    batches = QUICK_MINUTES if options.quick else MINUTES
    case = f"{batches:,} batches"
    with (
        tempfile.TemporaryDirectory(prefix="swell-before-") as name,
        bucket(minutes(batches)) as url,
    ):
        archive = subprocess.run(
            ["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "x", "-C", name], input=archive.stdout, check=True)
        roots = {"swell": ROOT, f"swell {BEFORE}": Path(name)}
        for system, root in roots.items():
            times = [measured(timed_resubmission, url, root) for _ in range(options.runs)]
            yield Row.of(system, case, "resubmission", "s", times)


def of_compaction(options: Options) -> Iterator[Row]:
    """What it costs to compact."""
    batches = QUICK_MINUTES if options.quick else MINUTES
    case = f"{batches:,} batches"
    found = []
    for _ in range(options.runs):
        with bucket(minutes(batches)) as url:
            found.append(measured(spent_compacting, url))
    per_batch = [1000 * cpu / compacted for cpu, _, compacted in found]
    yield Row.of("swell", case, "processor time of a batch", "ms", per_batch)
    yield Row.of("swell", case, "clock", "s", [clock for _, clock, _ in found])


CASES: Mapping[str, Case] = {
    "month": of_a_month,
    "minutes": of_minutes,
    "compaction": of_compaction,
}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES))
