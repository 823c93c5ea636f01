"""Rows of a table: 569 tumours, 30 measures of each, and whether it is benign; from scikit-learn.

How small a task can be: what it leaves out has defaults.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset

from trainer.task import Task
from trainer.tasks.shipped import shipped


class Tumours(Task):
    """Every fifth row is held out."""

    epochs = 20

    def __init__(self) -> None:
        file = shipped("sklearn/datasets/data/breast_cancer.csv", "scikit-learn")
        table = torch.from_numpy(numpy.loadtxt(file, "f4", delimiter=",", skiprows=1))
        x, held_out = table[:, :-1], torch.arange(len(table)) % 5 == 0
        x = (x - x[~held_out].mean(0)) / x[~held_out].std(0)
        self.train, self.test = (TensorDataset(x[p], table[p, -1:]) for p in (~held_out, held_out))

    def dataset(self) -> TensorDataset:
        return self.train

    def validation(self) -> TensorDataset:
        return self.test

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    def evaluate_batch(self, model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        return {"test_accuracy": ((model(batch[0]) > 0) == batch[1]).float().mean()}
