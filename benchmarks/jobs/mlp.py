"""One model, one data set and one clock for every system that is compared.

The environment says what is trained (``MLP_SIZES``, ``MLP_BATCH``, ``MLP_STEPS``) and where
the stamps go (``MLP_STAMPS``, a folder).
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
SAMPLES = 4096


def sizes() -> list[int]:
    """The widths of the layers' inputs, and of the last one's output."""
    return [int(size) for size in os.environ["MLP_SIZES"].split(",")]


def total_steps() -> int:
    """How many steps to train."""
    return int(os.environ["MLP_STEPS"])


def global_batch() -> int:
    """Samples of one step, over all ranks."""
    return int(os.environ["MLP_BATCH"])


def build() -> nn.Sequential:
    """The model, the same in every process."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    widths = sizes()
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def optimizer(model: nn.Module) -> torch.optim.SGD:
    """Plain, with as much state as the model has parameters."""
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def data() -> tuple[Tensor, Tensor]:
    """All samples and their labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, sizes()[0], generator=generator)
    y = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    return x, y


def share(step: int, rank: int, size: int) -> Tensor:
    """The samples of one rank in one step."""
    start = step * global_batch()
    return torch.arange(start + rank, start + global_batch(), size) % SAMPLES


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over the samples."""
    return functional.cross_entropy(model(x)[:, :CLASSES], y)


class Stamps:
    """Tells, on this machine's clock, when this process had applied which step.

    A line is ``time cpu rank size step``: Unix seconds, seconds of processor time that the
    process has used, and the number of steps completed.
    """

    def __init__(self) -> None:
        folder = Path(os.environ["MLP_STAMPS"])
        self._file = (folder / f"{os.uname().nodename}-{os.getpid()}").open("a", buffering=1)

    def applied(self, step: int, rank: int, size: int) -> None:
        """To be called right after the optimizer's step."""
        self._file.write(f"{time.time():.6f} {time.process_time():.6f} {rank} {size} {step}\n")
