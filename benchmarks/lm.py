"""Tokens per second of the task ``lm``: beside the loop of nanoGPT, rebuilt for the same model.

Both train in one process and take their steps in turn, so that what else the machine does falls on
both; a ratio is the median over pairs of steps. One thread on a processor. On a GPU, where there is
one: bfloat16, compiled, and the part of its peak that the model's operations come to (MFU).

The rebuilt loop takes windows at random places from a memory map, as a tensor each; sets the
learning rate in every group; clips; steps a GradScaler that is off; asks for the loss every ten
steps. Its AdamW is fused on GPUs alone (``nanogpt``). ``nanogpt, fused`` has the task's optimizer.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from rows import Options, Row, benchmark
from trainer.tasks.lm import LM

ROOT = Path(__file__).parents[1]
STEPS, SKIP = 40, 3
LOGGED = 10  # steps
# Dense bfloat16, FLOP/s, without sparsity: NVIDIA's data sheets of the A100, the H100 SXM and H200.
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        size: of the model.
        length: tokens of a window.
        batch: windows of a step.
        gpu: whether it is for a GPU, in bfloat16 and compiled.
    """

    size: str
    length: int
    batch: int
    gpu: bool = False

    def task(self) -> LM:
        """The task; in memory that others have, too, its text is read once."""
        task = LM(size=self.size, length=self.length, global_batch=self.batch, steps=10**6)
        if self.gpu:
            task.precision, task.compile, task.unit = "bf16", True, self.batch
        return task


SETTINGS = {
    "1m": Setting("1m", 256, 8),
    "10m": Setting("10m", 256, 4),
    "124m": Setting("124m", 1024, 32, gpu=True),
    "1b": Setting("1b", 2048, 8, gpu=True),
}


def swell(setting: Setting) -> Iterator[None]:
    """Takes a step of ``trainer.fit`` each time that it is asked for one."""
    from trainer.loop import Loop
    from trainer.protocol.channel import current_channel
    from trainer.protocol.session import Session

    loop = Loop(setting.task(), current_channel(), Session())
    for step in loop._steps:
        with step:
            loop._take(step)
        yield


def nanogpt(setting: Setting, fused: bool) -> Iterator[None]:
    """The same as nanoGPT's train.py goes about it."""
    task = setting.task()
    device = torch.device("cuda" if setting.gpu else "cpu")
    torch.manual_seed(task.seed)
    model: Any = task.model().to(device)
    optimizer = task.optimizer(model)
    if not fused and not setting.gpu:
        groups = [{**group, "fused": False} for group in optimizer.param_groups]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    if setting.gpu:
        model = torch.compile(model)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    autocast = torch.autocast("cuda", torch.bfloat16) if setting.gpu else nullcontext()
    file = task.text.tokens.folder / "tokens-00000.bin"

    def batch() -> tuple[Any, Any]:
        data = numpy.memmap(file, "<u2", "r")
        at = torch.randint(len(data) - setting.length, (setting.batch,))
        parts = [
            torch.stack(
                [
                    torch.from_numpy(data[i + shift : i + shift + setting.length].astype("i8"))
                    for i in at.tolist()
                ]
            )
            for shift in (0, 1)
        ]
        if setting.gpu:
            parts = [part.pin_memory().to(device, non_blocking=True) for part in parts]
        return parts[0], parts[1]

    number = 0
    x, y = batch()
    while True:
        rate = 3e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * number / 1e6)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast:
            logits = model(x)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        x, y = batch()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        if number % LOGGED == 0:
            loss.item()
        yield


def paired(setting: Setting, steps: int) -> list[float]:
    """Medians: each side's time of a step; of the others, ratios to ours by clock and processor."""
    torch.set_num_threads(1)
    sides = [swell(setting), nanogpt(setting, fused=False), nanogpt(setting, fused=True)]
    for _ in range(SKIP):
        for side in sides:
            next(side)
    found: list[list[tuple[float, float]]] = [[] for _ in sides]
    for number in range(steps):
        turn = list(zip(sides, found, strict=True))
        for side, times in turn[number % len(turn) :] + turn[: number % len(turn)]:
            _finish(setting)
            clock, cpu = time.perf_counter(), time.process_time()
            next(side)
            _finish(setting)
            times.append((time.perf_counter() - clock, time.process_time() - cpu))
    ratios = [
        statistics.median(theirs[i] / own[i] for theirs, own in zip(times, found[0], strict=True))
        for i in (0, 1)
        for times in found[1:]
    ]
    return [*(statistics.median(clock for clock, _ in times) for times in found), *ratios]


def _finish(setting: Setting) -> None:
    if setting.gpu:
        torch.cuda.synchronize()


def compare(name: str, options: Options) -> Iterator[Row]:
    """One size, in processes of its own."""
    setting = SETTINGS[name]
    if setting.gpu and not torch.cuda.is_available():
        print(f"{name}: not measured, there is no GPU", file=sys.stderr)
        return
    line = [sys.executable, __file__, "--side", name, str(6 if options.quick else STEPS)]
    runs = [
        [
            float(one)
            for one in subprocess.run(
                line, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
            ).stdout.split()
        ]
        for _ in range(options.runs)
    ]
    columns = list(zip(*runs, strict=True))
    tokens = setting.batch * setting.length
    systems = ("swell", "nanogpt", "nanogpt, fused")
    for system, clock in zip(systems, columns, strict=False):
        yield Row.of(system, name, "throughput", "tokens/s", [tokens / one for one in clock])
        peak = _peak() if setting.gpu else None
        flops = setting.task().flops_per_sample * setting.batch
        if peak is not None:
            yield Row.of(system, name, "MFU", "%", [100 * flops / one / peak for one in clock])
        else:
            yield Row.of(
                system, name, "operations", "GFLOP/s", [flops / one / 1e9 for one in clock]
            )
    for place, metric in ((3, "throughput"), (5, "throughput by processor time")):
        for system, ratios in zip(systems[1:], columns[place : place + 2], strict=True):
            yield Row.of(f"swell / {system}", name, metric, "x", ratios)


def _peak() -> float | None:
    """Of this machine's GPU; None if it is not known here."""
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


CASES: dict[str, Callable[[Options], Iterator[Row]]] = {
    name: partial(compare, name) for name in SETTINGS
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        print(*paired(SETTINGS[sys.argv[2]], int(sys.argv[3])))
    else:
        sys.exit(benchmark(__doc__, CASES, runs=3))
