"""Handwritten digits: 1,797 real images of 8 x 8 pixels, from inside scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import TensorDataset

from trainer.task import Task
from trainer.tasks.shipped import shipped

# A row of 64 pixels and a label for each image.
DIGITS = "sklearn/datasets/data/digits.csv.gz"
TEST_EVERY = 5  # every fifth image is for testing


class Digits(Task):
    """A small convolutional network on scikit-learn's digits.

    Args:
        epochs: passes over the 1,437 training images.
        batch: the global batch, over all workers.
        lr: the highest learning rate of the schedule.
        width: channels of the first layer; the cost of a step grows with its square.
        dtype: "float32" or "float64". In float32, rounding that depends on the order of
            additions grows with every step until it shows in the third digit of the loss;
            in float64 any visible difference between two runs is an error in the training.
        seed: fixes the initial weights and the order of the images.
    """

    def __init__(
        self,
        epochs: int = 20,
        batch: int = 64,
        lr: float = 0.05,
        width: int = 32,
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        self.epochs = epochs
        self.global_batch = batch
        self.seed = seed
        self._lr = lr
        self._width = width
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {dtype!r}; it must be float32 or float64")
        self._dtype = getattr(torch, dtype)
        table = torch.from_numpy(numpy.loadtxt(shipped(DIGITS, "scikit-learn"), delimiter=","))
        images = table[:, :-1].reshape(-1, 1, 8, 8).to(self._dtype) / 16.0
        labels = table[:, -1].to(torch.int64)
        testing = torch.arange(len(labels)) % TEST_EVERY == 0
        self._train = TensorDataset(images[~testing], labels[~testing])
        self._test = TensorDataset(images[testing], labels[testing])

    def dataset(self) -> TensorDataset:
        return self._train

    def validation(self) -> TensorDataset:
        return self._test

    def model(self) -> nn.Module:
        width = self._width
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 10),
        ).to(self._dtype)

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=self._lr, momentum=0.9, weight_decay=1e-4)

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        return OneCycleLR(optimizer, max_lr=self._lr, total_steps=total_steps)

    def batch(self, dataset: TensorDataset, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = dataset.tensors
        return images[indices], labels[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def evaluate_batch(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        images, labels = batch
        logits = model(images)
        return {
            "test_loss": functional.cross_entropy(logits, labels),
            "test_accuracy": ((logits.argmax(1) == labels).sum(), len(labels)),
        }
