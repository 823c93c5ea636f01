"""What loaders make in tests. They find this module as they find a program's own."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.loaders.sample import samples_of


class Squares:
    """A data set whose samples are the squares of their numbers.

    Args:
        broken: a sample that raises.
    """

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken

    def __getitem__(self, index: int) -> Tensor:
        if index == self.broken:
            raise ValueError(f"{index} is no picture")
        return torch.tensor(index * index)


class Batches:
    """Makes (a batch of squares, the process that made it) of a list of samples.

    Args:
        dataset: where they come from.
        kills: the sample for which a loader kills itself.
        times: how often it does, with a note in ``notes`` each time.
        gate: a folder; nothing is made until it has a file ``open``.
    """

    def __init__(
        self,
        dataset: Any = None,
        kills: int = -1,
        times: int = 0,
        notes: Path | None = None,
        gate: Path | None = None,
    ) -> None:
        self.dataset = Squares() if dataset is None else dataset
        self.kills, self.times, self.notes, self.gate = kills, times, notes, gate

    def __call__(self, request: list[int]) -> tuple[Tensor, int]:
        while self.gate is not None and not (self.gate / "open").exists():
            time.sleep(0.01)
        if self.kills in request:
            assert self.notes is not None
            before = len(list(self.notes.iterdir()))
            if before < self.times:
                (self.notes / f"{before}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.stack(samples_of(self.dataset, request)), os.getpid()


class Draws:
    """Makes random numbers that nothing has seeded."""

    def __call__(self, request: int) -> tuple[float, float]:
        return random.random(), float(torch.rand(()))


class Unready:
    """Cannot be taken over by another process."""

    def __reduce__(self) -> Any:
        return _missing, ()


def _missing() -> None:
    raise ImportError("no module named 'gone'")
