"""A task whose batches loaders make: found as a module, and by its text as a program of its own."""

from __future__ import annotations

import os
import random
from typing import Any

import torch
from torch import Tensor, nn

from trainer import Task


class Noisy:
    """Samples that have noise, or one that raises, if the environment says so."""

    def __init__(self) -> None:
        self.level = 1

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        if index == int(os.environ.get("BROKEN", -1)):
            raise OSError(5, "the disk is broken")
        noise = random.random() if "NOISE" in os.environ else 0.0
        return torch.tensor([index / 24 + noise], dtype=torch.float64)


class Training(Task):
    """Two epochs; its batches follow the step, and it counts what it computes."""

    epochs = 2
    global_batch = 8
    seen: int

    def __init__(self, workers: int = 0, uses: str = "") -> None:
        self.workers = workers
        self.uses = uses

    def dataset(self) -> Any:
        self.given = Noisy()
        return self.given

    def state(self) -> dict[str, Any]:
        return {"seen": 0}

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, dtype=torch.float64)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def batch(self, dataset: Any, indices: Tensor, step: Any) -> Any:
        if self.uses:
            getattr(self, self.uses)
        return super().batch(dataset, indices) * (1 + step.epoch)

    def after_update(self, model: nn.Module, step: Any) -> None:
        if "LEVEL" in os.environ and step.number == 3:
            self.given.level = 5

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        self.seen = self.seen + 1
        loss: Tensor = model(batch).square().mean()
        return loss

    def evaluate(self, model: Any) -> dict[str, float]:
        return {"weight": float(model.weight), "bias": float(model.bias), "seen": self.seen}


if __name__ == "__main__":
    import sys
    from json import dumps

    from trainer import fit

    print(dumps(fit(Training(int(sys.argv[1])))))
