"""What a user describes: the model, the data, the loss. How it survives is not their concern."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Task:
    """Subclass this, and hand an instance to ``trainer.fit()``.

    ``dataset``, ``model``, ``optimizer`` and ``loss`` must be written. They are called
    in each worker, and must give the same result everywhere: seed what is random.

    Attributes:
        epochs: passes over the data.
        global_batch: samples of one step over all workers, whatever their number.
        micro_batch: most samples of one forward pass; None for a worker's whole share.
        seed: fixes the order of the data and the state of torch's random generators.
    """

    epochs: int = 1
    global_batch: int = 32
    micro_batch: int | None = None
    seed: int = 0

    def dataset(self) -> Sized:
        """The training data: anything with a length and integer indexing."""
        raise NotImplementedError(f"{type(self).__name__} must define dataset()")

    def model(self) -> nn.Module:
        """The model, freshly initialised, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must define model()")

    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimizer of ``model``, which is on its device by now."""
        raise NotImplementedError(f"{type(self).__name__} must define optimizer(model)")

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LRScheduler | None:
        """A learning rate schedule that is stepped once after each step, or None."""
        return None

    def batch(self, dataset: Any, indices: Tensor) -> Any:
        """The samples ``indices`` (int64, shape [n]) as one batch on the CPU."""
        return torch.utils.data.default_collate([dataset[int(i)] for i in indices])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The *mean* loss over the samples of ``batch``, as a scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(model, batch)")

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the model as it is, by name; called on every worker after each epoch."""
        return {}
