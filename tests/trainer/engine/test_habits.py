"""Habits that other trainers bring along, and that are right here, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainer.engine.loops import alike
from tests.trainer.engine.plain import Run, data, numbers


def parts() -> tuple[Tensor, Tensor, Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return *data(20), model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def masked_by_hooks(make: Any, log: list[Any]) -> None:
    """Hooks that look at gradients, scale and mask them."""
    x, y, model, optimizer = parts()
    mask = torch.arange(8, dtype=torch.float64).remainder(2)
    model[0].bias.register_hook(lambda gradient: gradient * mask)
    model[0].weight.register_hook(lambda gradient: None if gradient.isfinite().all() else gradient)
    model[2].weight.register_hook(lambda gradient: gradient.mul(0.5))
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        with step:
            for part in step.split(3):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def weighed_means(make: Any, log: list[Any]) -> None:
    """A mean, weighed by its part of the batch."""
    x, y, model, optimizer = parts()
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        with step:
            i = step.indices
            (F.mse_loss(model(x[i]), y[i]) * len(i) / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def attacked(make: Any, log: list[Any]) -> None:
    """Inputs are made worse by an optimizer that each step makes."""
    x, y, model, optimizer = parts()
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                noise = torch.zeros_like(x[part], requires_grad=True)
                its = torch.optim.SGD([noise], lr=0.1, maximize=True)
                for _ in range(2):
                    error = (model(x[part] + noise) - y[part]).square().sum()
                    (noise.grad,) = torch.autograd.grad(error, noise)
                    its.step()
                out = model(x[part] + noise.detach())
                ((out - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


class Anew(nn.Module):
    """Makes its activation anew in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        self.activation = nn.LeakyReLU(0.2)
        out: Tensor = self.activation(self.inner(x))
        return out


def made_anew(make: Any, log: list[Any]) -> None:
    """A module without weights is replaced by its like."""
    torch.manual_seed(0)
    (x, y), model = data(20), Anew()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("run", [masked_by_hooks, weighed_means, attacked, made_anew])
def test_a_habit_trains_what_a_plain_loop_trains(run: Run, size: int) -> None:
    assert alike(run, size) == size
