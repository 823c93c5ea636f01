"""The model as a task for ``trainer.fit``."""

from __future__ import annotations

import os

import horovod.torch as hvd
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jobs import mlp
from trainer import Task
from trainer.engine import gradients


class Mlp(Task):
    """Stamps its steps, and otherwise does only what every task does."""

    epochs = 1000000

    def __init__(self) -> None:
        if size := os.environ.get("MLP_BUCKET_BYTES"):
            gradients.BUCKET_BYTES = int(size)
        self.global_batch = mlp.global_batch()
        self.x, self.y = mlp.data()
        self.epochs = -(-mlp.total_steps() * self.global_batch // len(self.y))

    def dataset(self) -> Tensor:
        return self.y

    def model(self) -> nn.Module:
        return mlp.build()

    def optimizer(self, model: nn.Module) -> Optimizer:
        return mlp.optimizer(model)

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        return Stamped(optimizer)

    def batch(self, dataset: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mlp.loss(model, *batch)


class Stamped(LRScheduler):
    """A constant rate. It is told of every completed step, and its count survives."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._stamps = mlp.Stamps()
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if hvd.is_initialized():
            world = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT", "")  # each has its own
            self._stamps.applied(self.last_epoch, hvd.size(), world)

    def state_dict(self) -> dict[str, int]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.last_epoch = state_dict["last_epoch"]
