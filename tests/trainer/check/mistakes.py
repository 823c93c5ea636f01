"""A sound task, and the same with one mistake each."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trainer import Task


class Augmented(TensorDataset):
    """Draws in each sample, as the transforms of images do."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return x + 0.1 * torch.randn(x.shape), y


class Sound(Task):
    """A small regression with dropout and augmentation."""

    epochs = 3
    global_batch = 8

    def dataset(self) -> Any:
        x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
        return Augmented(x, x.sum(1, keepdim=True))

    def model(self) -> Any:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))

    def optimizer(self, model: Any) -> Any:
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    def loss(self, model: Any, batch: Any) -> Any:
        x, y = batch
        return (model(x) - y).square().mean()

    def validation(self) -> Any:
        return TensorDataset(*self.dataset().tensors)

    def evaluate_batch(self, model: Any, batch: Any) -> dict[str, Any]:
        x, y = batch
        return {"error": (model(x) - y).square().mean()}


class OtherData(Sound):
    def dataset(self) -> Any:
        x = torch.frombuffer(bytearray(os.urandom(24 * 4)), dtype=torch.uint8).view(24, 4) / 256
        return TensorDataset(x, x.sum(1, keepdim=True))


class OtherModel(Sound):
    def model(self) -> Any:
        model = super().model()
        nn.init.normal_(
            model[0].bias,
            generator=torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big")),
        )
        return model


class InNoOptimizer(Sound):
    def optimizer(self, model: Any) -> Any:
        return torch.optim.AdamW(model[0].parameters(), lr=0.01)


class Unused(Sound):
    def model(self) -> Any:
        model = super().model()
        model[0].register_parameter("scale", nn.Parameter(torch.ones(8)))
        return model


class Summed(Sound):
    def loss(self, model: Any, batch: Any) -> Any:
        x, y = batch
        return (model(x) - y).square().sum()


class OwnRandomness(Sound):
    def __init__(self) -> None:
        self._noise = torch.Generator().manual_seed(7)

    def batch(self, dataset: Any, indices: Tensor) -> Any:
        x, y = dataset[indices]
        return x + torch.randn(x.shape, generator=self._noise), y


class NoNumber(Sound):
    def loss(self, model: Any, batch: Any) -> Any:
        return super().loss(model, batch) + torch.zeros(()).log()


class Skipping(NoNumber):
    on_nonfinite = "skip"


class OfTheWorld(Sound):
    def loss(self, model: Any, batch: Any, step: Any) -> Any:  # type: ignore[override]
        return super().loss(model, batch) / step.size


class NoMean(Sound):
    def evaluate_batch(self, model: Any, batch: Any) -> dict[str, Any]:
        x, y = batch
        return {"largest": (model(x) - y).abs().max()}


class Counting(Sound):
    calls = 0

    def loss(self, model: Any, batch: Any) -> Any:
        self.calls += 1
        return super().loss(model, batch)


class Forgetful(Sound):
    """Its optimizer does not take over what another one has."""

    schedule = "linear"

    class Optimizer(torch.optim.SGD):
        def load_state_dict(self, state_dict: Any) -> None:
            """Loads nothing."""

    def optimizer(self, model: Any) -> Any:
        return self.Optimizer(model.parameters(), lr=0.01)


class Endless(Sound):
    def dataset(self) -> Any:
        return functools.partial(iter, [(torch.ones(4), torch.ones(1))])

    def validation(self) -> Any:
        return None


class Synchronised(Sound):
    def model(self) -> Any:
        return nn.Sequential(nn.Linear(4, 8), nn.SyncBatchNorm(8), nn.Linear(8, 1))


class Raising(Sound):
    def loss(self, model: Any, batch: Any) -> Any:
        raise ZeroDivisionError("in the loss")
