"""Samples per second of ``trainer.fit``: beside a plain loop, and beside DDP and Horovod.

A GPT of 10 M and a ResNet-18 on small images, data in memory, one thread for each rank. ``at once``
computes a rank's share in one pass, without dropout, and with batch normalisation that the others
have, too; ``by units`` accumulates over parts of 4 samples, which the others do as well.

In a world of one, ``fit`` and a plain loop are in one process and take their steps in turn, so that
what else the machine does falls on both; a ratio is the median over pairs of steps. In a world of
two, DDP under torchrun, DistributedOptimizer under horovodrun and ``fit`` under two agents run in
turn, again and again, and a ratio is taken between neighbours.

``processor time`` is what all threads use in a step; it is steadier than the clock.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from steady import Times, ddp, horovod, stamped
from steady import swell as agents
from torch import Tensor, nn
from torch.nn import functional as F

from jobs import models
from rows import Options, Row, benchmark

ROOT = Path(__file__).parents[1]
BATCH, UNIT, SKIP = 16, 4, 3
SAMPLES = 512
STEPS = 30
MODELS = ("gpt", "resnet")


def build(model: str) -> tuple[nn.Module, torch.optim.Optimizer, tuple[Tensor, Tensor]]:
    """Returns a model, its optimizer, and its data."""
    torch.manual_seed(0)
    net: nn.Module = models.GPT(dropout=0.0) if model == "gpt" else models.resnet18()
    data = models.tokens(SAMPLES) if model == "gpt" else models.images(SAMPLES)
    return net, torch.optim.AdamW(net.parameters(), lr=1e-4), data


def swell(model: str, unit: int) -> Iterator[None]:
    """Takes a step of ``trainer.fit`` each time that it is asked for one."""
    from trainer.loop import Loop
    from trainer.protocol.channel import current_channel
    from trainer.protocol.session import Session
    from trainer.task import Task

    net, optimizer, (x, y) = build(model)

    class Measured(Task):
        epochs = 1000
        global_batch = BATCH

        def dataset(self) -> Any:
            return y

        def model(self) -> nn.Module:
            return net

        def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            return optimizer

        def batch(self, dataset: Any, indices: Tensor) -> Any:
            return x[indices], y[indices]

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        def on_epoch(self, model: nn.Module) -> None:
            """Nothing."""

    task = Measured()
    task.unit = unit
    took = Loop._take
    loop = Loop(task, current_channel(), Session())
    for step in loop._steps:
        with step:
            took(loop, step)
        yield


def plain(model: str, unit: int) -> Iterator[None]:
    """The same, written by hand."""
    net, optimizer, (x, y) = build(model)
    net.train()
    while True:
        for batch in torch.randperm(SAMPLES).split(BATCH):
            optimizer.zero_grad()
            total = 0.0
            for part in batch.split(unit or BATCH):
                loss = F.cross_entropy(net(x[part]), y[part]) * (len(part) / len(batch))
                loss.backward()
                total += loss.item()
            optimizer.step()
            yield


def paired(model: str, unit: int, steps: int) -> list[float]:
    """The medians of a step's (swell's, plain's) time and processor time, and of their ratios."""
    torch.set_num_threads(1)
    sides = [swell(model, unit), plain(model, unit)]
    for _ in range(SKIP):
        for side in sides:
            next(side)
    found: list[list[tuple[float, float]]] = [[], []]
    for _ in range(steps):
        for side, times in zip(sides, found, strict=True):
            clock, cpu = time.perf_counter(), time.process_time()
            next(side)
            times.append((time.perf_counter() - clock, time.process_time() - cpu))
    medians = [statistics.median(t[i] for t in times) for i in (0, 1) for times in found]
    ratios = [statistics.median(p[i] / s[i] for s, p in zip(*found, strict=True)) for i in (0, 1)]
    return [*medians, *ratios]


def compare(model: str, unit: int, options: Options) -> Iterator[Row]:
    """One model, in processes of its own."""
    case = f"{model}, {'by units' if unit else 'at once'}"
    steps = 5 if options.quick else STEPS
    runs = [_measured(model, unit, steps) for _ in range(options.runs)]
    columns = list(zip(*runs, strict=True))
    for system, clock in (("swell", columns[0]), ("plain", columns[1])):
        yield Row.of(system, case, "throughput", "samples/s", [BATCH / one for one in clock])
    yield Row.of("swell / plain", case, "throughput", "x", columns[4])
    yield Row.of("swell / plain", case, "throughput by processor time", "x", columns[5])


def _measured(model: str, unit: int, steps: int) -> list[float]:
    line = [sys.executable, __file__, "--side", model, str(unit), str(steps)]
    ran = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return [float(one) for one in ran.stdout.split()]


def in_two(model: str, unit: int, options: Options) -> Iterator[Row]:
    """One model, on two ranks."""
    case = f"{model}, {'by units' if unit else 'at once'}, two ranks"
    env = {"THROUGHPUT_MODEL": model, "THROUGHPUT_UNIT": str(unit)}
    systems = {
        "ddp": partial(ddp, job=("throughput.py", "ddp")),
        "swell": partial(agents, task="jobs.throughput:Measured"),
        "horovod": partial(horovod, job=("throughput.py", "horovod")),
    }
    found: dict[str, list[Times]] = {name: [] for name in systems}
    for _ in range(options.runs):
        for name, start in systems.items():
            found[name].append(stamped(start, 5 if options.quick else STEPS, env))
    for name, times in found.items():
        yield Row.of(name, case, "throughput", "samples/s", [BATCH / clock for clock, _ in times])
        yield Row.of(name, case, "processor time", "ms", [1000 * cpu for _, cpu in times])
    for peer in ("ddp", "horovod"):
        pairs = list(zip(found[peer], found["swell"], strict=True))
        for place, metric in enumerate(("throughput", "throughput by processor time")):
            ratios = [theirs[place] / ours[place] for theirs, ours in pairs]
            yield Row.of(f"swell / {peer}", case, metric, "x", ratios)


CASES: dict[str, Callable[[Options], Iterator[Row]]] = {
    f"{model}{'-units' * bool(unit)}{'-two' * (measured is in_two)}": partial(measured, model, unit)
    for measured in (compare, in_two)
    for model in MODELS
    for unit in (0, UNIT)
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        print(*paired(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        sys.exit(benchmark(__doc__, CASES, runs=3))
