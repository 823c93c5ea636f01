"""The time of a step when nothing happens: ``trainer.fit``, Horovod and DDP side by side.

Two ranks, one thread each, train the same model on the same batches:

    swell       ``trainer.fit`` under two agents
    horovod     ``DistributedOptimizer``, started by ``horovodrun -np 2 --gloo``
    ddp         ``DistributedDataParallel`` (gloo), started by ``torchrun``

They run in turn, again and again. A figure of one run is the median over its steps; a ratio is
taken between neighbours, so that what else the machine does falls on both. ``processor time`` is
what all threads of one rank use per step; it tells what a step costs where cores are scarce, and
is steadier than the clock.

The case ``buckets`` trains with Swell's gradients in buckets of several sizes. ``before`` has the
steps of this version beside those of a commit of before steps were checked, whose files it takes
out of git: what all checks together cost. ``telemetry`` trains the small model with everything on
that tells others of a run (event files, samples of machines, an endpoint for Prometheus, MLflow in
a folder), and with everything off, in turn, for so long that each is told several times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from agents import Agents
from rows import Case, Options, Row, benchmark
from stamps import read_stamps, step_times

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "benchmarks" / "jobs"
BIN = Path(sys.executable).parent
LIMIT = 600.0  # seconds of one run
SKIP = 10  # steps until everything has been used once
# 2 x Linear(512), 6 x Linear(1024), 6 x Linear(2048): 2, 25 and 101 MB of gradients.
MODELS = {"small": [512] * 3, "medium": [1024] * 7, "large": [2048] * 7}
STEPS = {"small": 400, "medium": 80, "large": 30}
BATCH = 128
BUCKETS_MIB = (0.25, 1, 2, 4, 8, 32)
BEFORE = "9b173db"  # a commit
TOLD_STEPS = 2000  # of some 20 ms: a run is told of every ten seconds
PORT = 29464  # of each agent's address, for Prometheus

Times = tuple[float, float]  # of a step: seconds, seconds of processor time
Start = Callable[[Path, Mapping[str, str]], None]


def swell(
    folder: Path,
    env: Mapping[str, str],
    task: str = "jobs.fit:Mlp",
    telemetry: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """``telemetry`` is a job file's. Raises RuntimeError when the run does not succeed."""
    addresses = ["127.0.0.2", "127.0.0.3"]
    settings = {
        "program": {"task": task},
        "checkpoint": {"every": 3600.0},
        "min_workers": 2,
        "max_workers": 2,
        "spares": 0,
        "telemetry": dict(telemetry),
    }
    agents = Agents(folder, addresses, settings, env)
    processes = [agents.start(index) for index in range(len(addresses))]
    try:
        codes = [process.wait(LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()  # a worker ends with its agent
            process.wait()
    if any(codes):
        raise RuntimeError(f"the agents exited with {codes}: {agents.run_dir.outcome()}")


def horovod(
    folder: Path, env: Mapping[str, str], job: Sequence[str] = ("horovod_plain.py",)
) -> None:
    """``job`` is a program in jobs/ and its arguments."""
    command = ["horovodrun", "-np", "2", "--gloo", sys.executable, str(JOBS / job[0]), *job[1:]]
    _run(folder, command, env)


def ddp(folder: Path, env: Mapping[str, str], job: Sequence[str] = ("ddp.py",)) -> None:
    """``job`` is a program in jobs/ and its arguments."""
    command = ["torchrun", "--standalone", "--nproc-per-node", "2", str(JOBS / job[0]), *job[1:]]
    _run(folder, command, env)


SYSTEMS: Mapping[str, Start] = {"swell": swell, "horovod": horovod, "ddp": ddp}


def measure(start: Start, model: str, quick: bool, extra: Mapping[str, str]) -> Times:
    """One run of a model: the median step's time and processor time, in seconds."""
    sizes = {"MLP_SIZES": ",".join(map(str, MODELS[model])), "MLP_BATCH": str(BATCH)}
    return stamped(start, 20 if quick else STEPS[model], {**sizes, **extra})


def stamped(start: Start, steps: int, extra: Mapping[str, str]) -> Times:
    """One run of some steps: the median one's time and the mean processor time, in seconds."""
    with tempfile.TemporaryDirectory(prefix="swell-steady-") as name:
        folder = Path(name)
        stamps = folder / "stamps"
        stamps.mkdir()
        env = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}",
            "OMP_NUM_THREADS": "1",
            "MLP_STEPS": str(SKIP + steps),
            "MLP_STAMPS": str(stamps),
            **extra,
        }
        start(folder, env)
        times, cpu = step_times(read_stamps(stamps), SKIP)
        return statistics.median(times), statistics.fmean(cpu)


def compare(model: str, options: Options) -> Iterator[Row]:
    """All systems with one model."""
    found: dict[str, list[Times]] = {name: [] for name in SYSTEMS}
    for _ in range(options.runs):
        for name, start in SYSTEMS.items():
            found[name].append(measure(start, model, options.quick, {}))
    for name, times in found.items():
        yield from _rows(name, model, times)
    for peer in ("horovod", "ddp"):
        pairs = list(zip(found["swell"], found[peer], strict=True))
        ratios = [ours[0] / theirs[0] for ours, theirs in pairs]
        yield Row.of(f"swell / {peer}", model, "step", "x", ratios)
        ratios = [ours[1] / theirs[1] for ours, theirs in pairs]
        yield Row.of(f"swell / {peer}", model, "processor time", "x", ratios)


def buckets(options: Options) -> Iterator[Row]:
    """The medium model with buckets of several sizes."""
    found: dict[float, list[Times]] = {size: [] for size in BUCKETS_MIB}
    for _ in range(options.runs):
        for size, times in found.items():
            extra = {"MLP_BUCKET_BYTES": str(int(size * 2**20))}
            times.append(measure(swell, "medium", options.quick, extra))
    for size, times in found.items():
        yield from _rows("swell", f"buckets of {size} MiB", times)


def before(options: Options) -> Iterator[Row]:
    """The steps of this version and of BEFORE, in turn; each measures itself."""
    with tempfile.TemporaryDirectory(prefix="swell-before-") as name:
        archive = subprocess.run(
            ["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "x", "-C", name], input=archive.stdout, check=True)
        roots = {"swell": ROOT, f"swell {BEFORE}": Path(name)}
        for model in ("small", "medium"):
            found: dict[str, list[Times]] = {system: [] for system in roots}
            for turn in range(options.runs):
                for system in sorted(roots, reverse=bool(turn % 2)):
                    found[system].append(_measure_in(roots[system], model, options.quick))
            for system, times in found.items():
                yield from _rows(system, model, times)
            pairs = list(zip(*found.values(), strict=True))
            for index, metric in enumerate(("step", "processor time")):
                ratios = [now[index] / then[index] for now, then in pairs]
                yield Row.of(f"swell / {BEFORE}", model, metric, "x", ratios)


def telemetry(options: Options) -> Iterator[Row]:
    """Steps of some 20 ms with everything on, and everything off, in turn."""
    found: dict[str, list[Times]] = {"on": [], "off": []}
    sizes = {"MLP_SIZES": ",".join(map(str, MODELS["small"])), "MLP_BATCH": str(BATCH)}
    for turn in range(options.runs):
        for which in sorted(found, reverse=bool(turn % 2)):
            start = partial(_told, on=which == "on")
            steps = 20 if options.quick else TOLD_STEPS
            found[which].append(stamped(start, steps, sizes))
    for which, times in found.items():
        yield from _rows("swell", f"telemetry {which}", times)
    for index, metric in enumerate(("step", "processor time")):
        ratios = [on[index] / off[index] for on, off in zip(*found.values(), strict=True)]
        yield Row.of("on / off", "telemetry", metric, "x", ratios)


def _told(folder: Path, env: Mapping[str, str], on: bool) -> None:
    told: dict[str, object] = {"tensorboard": on, "machines": on}
    if on:
        told |= {"port": PORT, "mlflow": str(folder / "mlflow")}
    swell(folder, {**env, "MLFLOW_ALLOW_FILE_STORE": "true"}, telemetry=told)


def _measure_in(root: Path, model: str, quick: bool) -> Times:
    """As ``measure``, with everything that is in another folder."""
    call = f"print(json.dumps(steady.measure(steady.swell, {model!r}, {quick}, {{}})))"
    command = [sys.executable, "-c", f"import json, steady; {call}"]
    paths = {"PYTHONPATH": f"{root}:{root / 'benchmarks'}"}
    clock, cpu = json.loads(_run(root, command, paths))
    return clock, cpu


def _rows(system: str, case: str, times: Iterable[Times]) -> Iterator[Row]:
    clock, cpu = zip(*times, strict=True)
    yield Row.of(system, case, "step", "ms", [1000 * one for one in clock])
    yield Row.of(system, case, "processor time", "ms", [1000 * one for one in cpu])


def _run(folder: Path, command: list[str], env: Mapping[str, str]) -> str:
    """Returns what it prints."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env={**os.environ, **env, "PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


CASES: Mapping[str, Case] = {
    **{model: partial(compare, model) for model in MODELS},
    "buckets": buckets,
    "before": before,
    "telemetry": telemetry,
}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES))
