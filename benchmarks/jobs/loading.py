"""A job of benchmarks/loading.py: trains with samples that take time to make, and says how long.

    loading.py SYSTEM WORKERS DEVICE STEPS

SYSTEM is ``fit``, or ``plain`` for a loop over torch's DataLoader; DEVICE the seconds that a step
waits for its device besides. It prints, as JSON, the seconds of each step after the first ones, and
those of them that it has waited for batches: as ``fit`` says, and as the step's clock has them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trainer import Task

SAMPLE = 0.005  # seconds
BATCH, SAMPLES, SIZE = 32, 100_000, 256
SKIP = 10  # steps


class Decoded(Dataset[tuple[Tensor, Tensor]]):
    """Samples that come after a while, as from a disk or a bucket."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(SAMPLE)
        return torch.full((SIZE,), index / SAMPLES), torch.tensor(index % 10)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, 10))


def plain(workers: int, device: float) -> Iterator[tuple[float, float]]:
    """Gives, after each step, what it has waited for its batch: by its clock, twice."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    loader = DataLoader(Decoded(), BATCH, shuffle=True, num_workers=workers)
    batches = iter(loader)
    while True:
        began = time.perf_counter()
        x, y = next(batches)
        waited = time.perf_counter() - began
        time.sleep(device)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield waited, waited


class Measured(Task):
    """The same as a task.

    Attributes:
        device: seconds that a step waits for it.
        came: when the newest batch was there.
    """

    epochs = 1
    global_batch = BATCH
    device = 0.0
    came: list[float] = []  # noqa: RUF012

    def dataset(self) -> Any:
        return Decoded()

    def model(self) -> nn.Module:
        return model()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.came[:] = [time.perf_counter()]
        time.sleep(self.device)
        x, y = batch
        return F.cross_entropy(model(x), y)


def fit(workers: int, device: float) -> Iterator[tuple[float, float]]:
    """The same of ``trainer.fit``: what it says, and the step's time until its loss is computed."""
    from trainer.loop import Loop
    from trainer.protocol.channel import current_channel
    from trainer.protocol.session import Session

    task = Measured()
    task.workers, task.device = workers, device
    loop = Loop(task, current_channel(), Session())
    for step in loop._steps:
        began = time.perf_counter()
        with step:
            loop._take(step)
        yield step.data_wait or 0.0, task.came[0] - began


def main() -> None:
    """Trains, and prints."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # they only wait
    system, workers, device, steps = sys.argv[1:]
    torch.set_num_threads(1)
    taken = {"plain": plain, "fit": fit}[system](int(workers), float(device))
    told: list[tuple[float, float]] = []
    began = 0.0
    for number, waits in enumerate(taken):
        if number == SKIP:
            began = time.perf_counter()
        elif number > SKIP:
            told.append(waits)
        if len(told) == int(steps):
            break
    step = (time.perf_counter() - began) / len(told)
    said, seen = (sum(one) / len(told) for one in zip(*told, strict=True))
    print(json.dumps({"step": step, "said": said, "seen": seen}), flush=True)


if __name__ == "__main__":
    main()
