"""The end of an epoch, and data that is smaller than the batch or the world: right in any world."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import trained
from tests.trainer.ranks import alone

EPOCHS, RATE = 2, 0.1
CASES = [(1, 4), (2, 8), (7, 3), (5, 5)]


def samples(count: int) -> list[tuple[Tensor, Tensor]]:
    x = torch.arange(1.0, count + 1, dtype=torch.float64) / count
    return [(one.reshape(1), one.sin().reshape(1)) for one in x]


def fitted(count: int, batch: int, log: list[Any]) -> None:
    """Logs the final weight, and of each step how many samples this rank has taken."""
    from trainer import Task, fit

    class Small(Task):
        epochs = EPOCHS
        global_batch = batch

        def dataset(self) -> Any:
            return samples(count)

        def model(self) -> nn.Module:
            return nn.Linear(1, 1, bias=False, dtype=torch.float64)

        def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=RATE)

        def loss(self, model: nn.Module, batch: Any, step: Any) -> Tensor:
            x, y = batch
            log.append((step.number, step.epoch, x.flatten().tolist()))
            loss: Tensor = (model(x) - y).square().mean()
            return loss

        def evaluate(self, model: Any) -> dict[str, float]:
            return {"weight": float(model.weight)}

    task = Small()
    log.append(("weight", fit(task)["weight"]))


def plainly(count: int, batch: int) -> float:
    """The weight after plain steps, each with the mean over the samples that it has."""
    from trainer.engine.data import Order

    torch.manual_seed(0)
    weight = nn.Linear(1, 1, bias=False, dtype=torch.float64).weight.detach().flatten()
    order, data = Order(count, batch, 0), samples(count)
    for step in range(EPOCHS * order.steps_per_epoch):
        taken = order.take(order.epoch_of(step), *order.bounds(step)).tolist()
        grads = [2 * (weight * data[i][0] - data[i][1]) * data[i][0] for i in taken]
        weight = weight - RATE * torch.cat(grads).mean()
    return float(weight)


@pytest.mark.parametrize("count, batch", CASES)
def test_each_sample_of_an_epoch_comes_once_and_counts_as_much_as_others_of_its_step(
    count: int, batch: int
) -> None:
    expected = alone(plainly, count, batch)
    outcomes = trained(3, functools.partial(fitted, count, batch))
    taken: dict[int, list[float]] = {}
    for outcome in outcomes:
        assert outcome.error == ""
        weights = [value for name, *value in outcome.log if name == "weight"]
        assert weights and weights[-1][0] == pytest.approx(expected, rel=1e-12)
        for entry in outcome.log:
            if entry[0] != "weight":
                taken.setdefault(entry[1], []).extend(entry[2])
    whole = sorted(float(x) for x, _ in samples(count))
    assert {epoch: sorted(of) for epoch, of in taken.items()} == dict.fromkeys(range(EPOCHS), whole)
