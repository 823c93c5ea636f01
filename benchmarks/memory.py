"""What memory a worker has, beside a plain loop: a GPT of 100 M parameters with AdamW.

Both compute the same batches, without loader processes. ``resident`` is what the kernel says that
a process has in memory after six steps, ``peak`` the most that it had until then. Workers are those
of agents on this machine: one in a world of one, two in a world of two; a newcomer that receives
the state from the one that trains; and a spare, which waits beside a worker that trains.

In ``bf16`` autocast computes; in ``pure-bf16`` parameters, gradients and averages are bfloat16.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from agents import Agents
from rows import Case, Options, Row, benchmark

ROOT = Path(__file__).parents[1]
JOB = ROOT / "benchmarks" / "jobs" / "memory.py"
STEPS = 6
BATCH = 2  # samples of one worker
LIMIT = 600.0  # seconds of one run
LOOK_EVERY = 0.2  # seconds
SETTLED = 25  # looks at a spare
ADDRESSES = ("127.0.0.2", "127.0.0.3")
PRECISIONS = ("fp32", "bf16", "pure-bf16")

Memory = tuple[float, float]  # of a process, in MiB: resident, and at most


def plain(precision: str) -> Memory:
    with _notes(precision, 1) as (notes, env):
        subprocess.run([sys.executable, str(JOB)], env={**os.environ, **env}, check=True)
        return next(iter(_noted(notes).values()))


def world(size: int, precision: str) -> Memory:
    """The worker of a world that has more of it."""
    with _notes(precision, size) as (notes, env), _agents(notes, env, size) as start:
        for index in range(size):
            start(index)
        _wait(lambda: len(_noted(notes)) == size)
        return max(_noted(notes).values())


def newcomer(precision: str) -> Memory:
    """A worker that joins one that has trained, when both have gone on."""
    with _notes(precision, 2) as (notes, env), _agents(notes, env, 2, least=1) as start:
        start(0)
        _wait(lambda: bool(_noted(notes)))
        first = set(_noted(notes))
        start(1)
        _wait(lambda: len(_noted(notes)) == 2)
        return next(found for pid, found in _noted(notes).items() if pid not in first)


def spare(precision: str) -> Memory:
    """The process that waits beside a worker."""
    with _notes(precision, 1) as (notes, env), _agents(notes, env, 1, spares=1) as start:
        agent = psutil.Process(start(0).pid)
        held: list[float] = []

        def settled() -> bool:
            """Whether there is one that has not grown for a while."""
            if not _noted(notes):
                return False
            idle = [one for one in agent.children(True) if one.pid not in _noted(notes, 1)]
            held.append(max(one.memory_info().rss / 2**20 for one in idle))
            return len(held) > SETTLED and max(held[-SETTLED:]) - min(held[-SETTLED:]) < 1

        _wait(settled)
        return held[-1], max(held)


SIDES: Mapping[str, Callable[[str], Memory]] = {
    "world of one": partial(world, 1),
    "world of two": partial(world, 2),
    "newcomer": newcomer,
    "spare": spare,
}


def compare(precision: str, options: Options) -> Iterator[Row]:
    """All sides in one precision, in turn."""
    sides: Mapping[str, Callable[[str], Memory]] = {"plain loop": plain, **SIDES}
    runs = [
        {name: measure(precision) for name, measure in sides.items()} for _ in range(options.runs)
    ]
    for index, metric in enumerate(("resident", "peak")):
        for name in sides:
            yield Row.of(name, precision, metric, "MiB", [run[name][index] for run in runs])
        for name in SIDES:
            of = "world of two" if name == "newcomer" else "plain loop"
            ratios = [run[name][index] / run[of][index] for run in runs]
            yield Row.of(f"{name} / {of}", precision, metric, "x", ratios)


@contextmanager
def _notes(precision: str, workers: int) -> Iterator[tuple[Path, dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="swell-memory-") as name:
        notes = Path(name) / "notes"
        notes.mkdir()
        yield (
            notes,
            {
                "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}",
                "OMP_NUM_THREADS": "1",
                "MEMORY_PRECISION": precision,
                "MEMORY_BATCH": str(BATCH * workers),
                "MEMORY_NOTES": str(notes),
            },
        )


@contextmanager
def _agents(
    notes: Path, env: Mapping[str, str], size: int, least: int | None = None, spares: int = 0
) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """What starts agents; they end with the block, and their workers with them."""
    settings = {
        "program": {"task": "jobs.memory:Gpt"},
        "checkpoint": {"every": 3600.0},
        "min_workers": least or size,
        "max_workers": size,
        "start_wait": 1.0,
        "spares": spares,
    }
    agents = Agents(notes.parent, ADDRESSES[:size], settings, env)
    started: list[subprocess.Popen[bytes]] = []

    def start(index: int) -> subprocess.Popen[bytes]:
        started.append(agents.start(index))
        return started[-1]

    try:
        yield start
    finally:
        below = [one for agent in started for one in psutil.Process(agent.pid).children(True)]
        for process in started:
            process.kill()
            process.wait()
        psutil.wait_procs(below, LIMIT)


def _noted(notes: Path, step: int = STEPS) -> dict[int, Memory]:
    """The memory of each process, by its id, after its step number ``step`` or so."""
    found = {}
    for file in notes.iterdir():
        lines = file.read_text().splitlines(keepends=True)
        if len(lines) >= step and lines[step - 1].endswith("\n"):
            _, resident, peak = map(float, lines[step - 1].split())
            found[int(file.name)] = resident, peak
    return found


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not until():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it has taken more than {LIMIT:.0f} s")
        time.sleep(LOOK_EVERY)


CASES: Mapping[str, Case] = {name: partial(compare, name) for name in PRECISIONS}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES, runs=3))
