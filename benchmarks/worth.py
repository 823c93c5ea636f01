"""What interruptions cost with Swell: the same training undisturbed, and through a storm.

``swell launch`` trains on the local target, on three VMs: the digits, and the task ``lm``. In a
storm, one VM after another is drained or lost without a sign, and comes back some steps later; the
storm is drawn from a seed, in steps, so each run has it alike. Calm and storm run in turn.

    final loss, accuracy   of data that was not trained on
    time                   from the launch to the end
    machine time           of all VMs while they were there
    cost                   of that, at the prices for Spot and on demand of the launcher's
                           catalogue, in % of the calm run's on demand
    drains, losses         of VMs
    steps lost             that had to be done again

A device that waits for each sample (jobs/worth.py) stands in for one that computes: else, on cores
that all VMs share, a VM that is away would cost less and slow nobody, and flatter the storm.

    worth.py --plot FIGURES.json PICTURE.svg    draws what --json has written
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from launcher.job.machines import MACHINES
from launcher.status.status import read_status
from rows import Options, Row, benchmark
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "benchmarks/jobs/worth.py"
MACHINE = "a2-highgpu-1g"
REPLICAS = ("workerpool0-0", "workerpool1-0", "workerpool1-1")
EVENTS = 6
SEED = 24
LIMIT = 3600.0  # seconds of one run


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        task: its class.
        args: its arguments.
        steps: how many steps that takes.
        metrics: the figures that count: what they are, and their names.
    """

    task: str
    args: Mapping[str, Any]
    steps: int
    metrics: Mapping[str, str]


WORK = {
    "digits": Work(
        f"{JOBS}:Digits",
        {"epochs": 20, "batch": 64, "width": 24},
        20 * 23,
        {"final loss": "test_loss", "accuracy": "test_accuracy"},
    ),
    "lm": Work(
        f"{JOBS}:LM",
        {"steps": 240, "length": 128, "held_out": 0.01, "lr": 6e-3},
        240,
        {"final loss": "validation_loss"},
    ),
}
QUICK = {
    "digits": replace(WORK["digits"], args={"epochs": 4, "batch": 64, "width": 8}, steps=4 * 23),
    "lm": replace(WORK["lm"], args={"steps": 40, "length": 32, "held_out": 0.0005}, steps=40),
}


def storm(steps: int, events: int = EVENTS, seed: int = SEED) -> list[dict[str, str]]:
    """What happens to the VMs of a run of so many steps: one is away at a time, of three.

    Drains and losses take turns; each VM is back after half of the time to the next event.
    """
    chance = random.Random(seed)
    every = steps // (events + 1)
    market = []
    for number in range(1, events + 1):
        at = number * every + chance.randrange(-every // 8, every // 8 + 1)
        victim = chance.choice(REPLICAS)
        how = {"preempt": victim, "notice": "15s"} if number % 2 else {"vanish": victim}
        market.append({"at": f"{at} steps", **how, "back": f"{at + every // 2} steps"})
    return market


def trained(work: Work, market: list[dict[str, str]]) -> tuple[dict[str, Any], float, float]:
    """One run. Returns its status, and its time and its machines' time in seconds."""
    with tempfile.TemporaryDirectory(prefix="swell-worth-") as name:
        folder = Path(name)
        job = folder / "job.yaml"
        fields = {
            "name": "worth",
            "task": work.task,
            "args": dict(work.args),
            "pools": [MACHINE, f"2 x {MACHINE}"],
            "elastic": {"min_workers": 1, "spares": 0},
            "env": {"OMP_NUM_THREADS": "1"},
            "local": {"market": market},
        }
        job.write_text(json.dumps(fields))
        env = {**os.environ, "SWELL_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "launcher.cli", "launch", str(job)]
        begin = time.monotonic()
        ran = subprocess.run(
            [*line, "--run-id", "worth"], env=env, stdout=subprocess.DEVNULL, timeout=LIMIT
        )
        seconds = time.monotonic() - begin
        run = RunDirectory(str(folder / "home/runs/worth"))
        status = read_status(run)
        if ran.returncode or status["state"] != "succeeded":
            raise RuntimeError(f"the run {status['state']}: {status['reason']}")
        return status, seconds, machine_seconds(read_events(run))


def machine_seconds(events: list[dict[str, Any]]) -> float:
    """How long all VMs together have been members: from joining until notice, or until gone."""
    since: dict[tuple[str, str], float] = {}
    total = 0.0
    last = float(max(event["time"] for event in events))
    for event in sorted(events, key=lambda one: one["time"]):
        who = str(event.get("member")), str(event.get("incarnation"))
        if event["event"] == "member_joined":
            since.setdefault(who, event["time"])
        elif event["event"] == "drain" or (event["event"] == "loss" and event.get("gone")):
            total += event["time"] - since.pop(who, event["time"])
    return float(total + sum(last - begin for begin in since.values()))


def compare(name: str, options: Options) -> Iterator[Row]:
    """Calm and storm in turn."""
    work = (QUICK if options.quick else WORK)[name]
    markets = {"calm": [], "storm": storm(work.steps, 2 if options.quick else EVENTS)}
    runs: dict[str, list[tuple[dict[str, Any], float, float]]] = {case: [] for case in markets}
    for _ in range(options.runs):
        for case, market in markets.items():
            runs[case].append(trained(work, market))
    machine = MACHINES[MACHINE]
    assert machine.spot is not None and machine.on_demand is not None
    discount = machine.spot.usd_per_hour / machine.on_demand.usd_per_hour
    base = [used for _, _, used in runs["calm"]]
    for case, found in runs.items():
        for what, metric in work.metrics.items():
            values = [float(status["metrics"][metric]) for status, _, _ in found]
            yield Row.of(
                case,
                name,
                what,
                "%" if what == "accuracy" else "nats",
                [100 * value if what == "accuracy" else value for value in values],
            )
        yield Row.of(case, name, "time", "s", [seconds for _, seconds, _ in found])
        yield Row.of(case, name, "machine time", "s", [used for _, _, used in found])
        costs = [100 * used / whole for (_, _, used), whole in zip(found, base, strict=True)]
        yield Row.of(case, name, "cost on demand", "%", costs)
        yield Row.of(case, name, "cost on Spot", "%", [discount * cost for cost in costs])
        counts = {
            "drains": "drains",
            "losses": "losses",
            "steps lost": "steps_lost",
        }
        for what, field in counts.items():
            yield Row.of(case, name, what, "", [float(status[field]) for status, _, _ in found])


CASES: dict[str, Callable[[Options], Iterator[Row]]] = {
    name: partial(compare, name) for name in WORK
}


def plot(figures: Path, path: Path) -> None:
    """Draws calm and storm beside each other.

    Args:
        figures: what ``--json`` has written.
        path: the picture.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = json.loads(figures.read_text())
    found = {(row["case"], row["metric"], row["system"]): row for row in rows}
    names = list(dict.fromkeys(row["case"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows if row["unit"]))
    figure, axes = pyplot.subplots(
        len(names),
        len(metrics),
        figsize=(1.9 * len(metrics), 2.6 * len(names)),
        layout="constrained",
        squeeze=False,
    )
    for name, panels in zip(names, axes, strict=True):
        for metric, panel in zip(metrics, panels, strict=True):
            if (name, metric, "calm") not in found:
                panel.axis("off")
                continue
            for place, (system, color) in enumerate((("calm", "#1668a8"), ("storm", "#b5403a"))):
                row = found[name, metric, system]
                panel.bar(place, row["median"], color=color, width=0.7)
                ends = [[row["median"] - row["min"]], [row["max"] - row["median"]]]
                panel.errorbar(place, row["median"], ends, color="black", lw=1)
                panel.annotate(
                    f"{row['median']:.3g}", (place, row["max"]), ha="center", va="bottom"
                )
            panel.set_xticks([0, 1], ["calm", "storm"])
            panel.set_title(f"{name}: {metric}, {row['unit']}", fontsize="small")
            panel.margins(y=0.15)
    figure.savefig(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plot"]:
        plot(Path(sys.argv[2]), Path(sys.argv[3]))
        sys.exit(0)
    sys.exit(benchmark(__doc__, CASES, runs=3))
