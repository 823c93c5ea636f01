"""How long commands take that only think: starting Python is the measure.

Each command is a process of its own, run in turn with ``python -c pass``, so that the mood of the
machine falls on both. ``wall`` is what a person waits for, ``cpu`` is what a busy machine disturbs
less, and ``x pass`` is each run's time over that of the ``python -c pass`` beside it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rows import Case, Options, Row, benchmark

ROOT = Path(__file__).parents[1]
JOB = str(ROOT / "examples/digits.yaml")
SWELL = (sys.executable, "-m", "launcher.cli")
PASS = (sys.executable, "-c", "pass")
COMMANDS = {
    "help": (*SWELL, "--help"),
    "plan": (*SWELL, "plan", JOB, "--format", "json"),
    "plan-table": (*SWELL, "plan", JOB, "--format", "table"),
    "schema": (*SWELL, "schema"),
    # What a launch pays for before it can send: the client that plan must not import.
    "google-client": (sys.executable, "-c", "import google.cloud.aiplatform_v1"),
}


def measure(name: str, options: Options) -> Iterator[Row]:
    """Runs one command and ``python -c pass`` in turn; yields their times and ratios."""
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory() as home:
        _run(command, home)  # compiles what is not compiled yet
        pairs = [(_run(PASS, home), _run(command, home)) for _ in range(options.runs)]
    for metric, at in (("wall", 0), ("cpu", 1)):
        yield Row.of("python -c pass", name, metric, "s", [base[at] for base, _ in pairs])
        yield Row.of("swell", name, metric, "s", [own[at] for _, own in pairs])
        ratios = [own[at] / base[at] for base, own in pairs]
        yield Row.of("swell", name, f"{metric}, x pass", "x", ratios)


def large_file(options: Options) -> Iterator[Row]:
    """Reads and checks job files of 1 MiB, the largest allowed: right, and wrong all over."""
    event = "    - {{at: {0} steps, preempt: workerpool1-0, {1}: 5s, back: {0} steps}}\n"
    head = "name: x\ntask: m:C\npools: [a2-highgpu-1g, 3 x a2-highgpu-1g]\nlocal:\n  market:\n"
    for case, field in (("right", "notice"), ("wrong", "notcie")):
        line = event.format(1000, field)
        with tempfile.TemporaryDirectory() as home:
            path = Path(home) / "job.yaml"
            path.write_text(head + line * ((2**20 - len(head)) // len(line)))
            program = (
                "import sys, time\n"
                "from launcher import JobFileError, load_job\n"
                "start = time.perf_counter()\n"
                "try: load_job(sys.argv[1])\n"
                "except JobFileError: pass\n"
                "print(time.perf_counter() - start)\n"
            )
            times = [
                float(
                    subprocess.run(
                        [sys.executable, "-c", program, str(path)],
                        env=_environment(home),
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for _ in range(options.runs)
            ]
        yield Row.of("swell", f"large-file, {case}", "wall", "s", times)


def _run(command: Sequence[str], home: str) -> tuple[float, float]:
    """Runs a command. Returns its wall and CPU times in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, env=_environment(home), stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _environment(home: str) -> dict[str, str]:
    return {**os.environ, "SWELL_HOME": home, "PYTHONPATH": str(ROOT)}


CASES: dict[str, Case] = {
    **{name: partial(measure, name) for name in COMMANDS},
    "large-file": large_file,
}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES, runs=9))
