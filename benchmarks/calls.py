"""How many calls of Python functions a step of ``trainer.fit`` makes, beside a plain loop's.

Counted by ``sys.setprofile``, with those of torch and of the program: the same on a machine at rest
and on one that is not. In a world of one, with AdamW and a schedule; 3 layers at once, 24 layers,
and 3 layers in units of 4 of 16 samples. A step that examines the state is not among them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from rows import Case, Options, Row, benchmark
from trainer.loop import Loop
from trainer.protocol.channel import current_channel
from trainer.protocol.session import Session
from trainer.task import Task

BATCH, WIDTH, SAMPLES = 16, 32, 4096
SKIP, STEPS = 120, 40  # the state is examined in the first steps, and every 50 at the most


class Measured(Task):
    """Does only what every task does."""

    epochs = 1000
    global_batch = BATCH

    def __init__(self, layers: int, unit: int) -> None:
        torch.manual_seed(0)
        self.unit = unit
        self.layers = layers
        self.x, self.y = torch.randn(SAMPLES, WIDTH), torch.randint(0, WIDTH, (SAMPLES,))

    def dataset(self) -> Tensor:
        return self.y

    def model(self) -> nn.Module:
        pairs = [(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(self.layers)]
        return nn.Sequential(*(one for pair in pairs for one in pair))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-4)

    def scheduler(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: 1.0)

    def batch(self, dataset: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


def swell(layers: int, unit: int) -> Iterator[None]:
    """Takes a step of ``fit`` each time that it is asked for one."""
    loop = Loop(Measured(layers, unit), current_channel(), Session())
    for step in loop._steps:
        with step:
            loop._take(step)
        yield


def plain(layers: int, unit: int) -> Iterator[None]:
    """The same, written by hand."""
    task = Measured(layers, unit)
    model = task.model()
    optimizer = task.optimizer(model)
    schedule = task.scheduler(optimizer, 0)
    while True:
        for batch in torch.randperm(SAMPLES).split(BATCH):
            optimizer.zero_grad()
            for part in batch.split(unit or BATCH):
                loss = task.loss(model, task.batch(task.y, part)) * (len(part) / len(batch))
                loss.backward()
            optimizer.step()
            schedule.step()
            yield


def counted(side: Iterator[None]) -> list[float]:
    """The calls of each of some steps."""
    for _ in range(SKIP):
        next(side)
    calls = [0]

    def called(frame: FrameType, event: str, argument: Any) -> None:
        calls[0] += event == "call"

    found = []
    for _ in range(STEPS):
        calls[0] = 0
        sys.setprofile(called)
        next(side)
        sys.setprofile(None)
        found.append(float(calls[0]))
    return found


def compare(layers: int, unit: int, options: Options) -> Iterator[Row]:
    """A step of each; they are alike from run to run."""
    case = f"{layers} layers{', by units' * bool(unit)}"
    for name, side in (("swell", swell), ("plain", plain)):
        yield Row.of(name, case, "calls of Python in a step", "", counted(side(layers, unit)))


CASES: dict[str, Case] = {
    "layers": partial(compare, 3, 0),
    "deep": partial(compare, 24, 0),
    "units": partial(compare, 3, 4),
}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES, runs=1))
