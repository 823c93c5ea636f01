"""Gradients that a program keeps beyond their step stay what they were, as in a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import alike
from tests.trainer.engine.plain import data, numbers
from trainer.engine.bucket import Flat


class Optimistic(torch.optim.Optimizer):
    """Steps by twice the gradient, less the one of the step before, which it keeps."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            kept = self.state[parameter]
            gradient = parameter.grad
            assert gradient is not None
            parameter.sub_(1e-3 * (2 * gradient - kept.get("before", gradient)))
            kept["before"] = gradient
        return None


def optimistic(make: Any, log: list[Any]) -> None:
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).double()
    optimizer = Optimistic(model.parameters())
    before: list[Tensor] = []
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            now = [p.grad.detach() for p in model.parameters() if p.grad is not None]
            log.append(
                [float((one * other).sum()) for one, other in zip(now, before or now, strict=True)]
            )
            before = now
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


@pytest.mark.parametrize("size", [1, 2])
def test_a_program_may_keep_gradients(size: int) -> None:
    assert alike(optimistic, size) == size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kept", [lambda p: p.grad, lambda p: p.grad.detach(), lambda p: p.grad[:1]]
)
def test_a_bucket_leaves_what_is_kept(kept: Any, dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=dtype))
    bucket = Flat([parameter], 1)
    memory = bucket.gradients.data_ptr()
    held = None
    for number in (1.0, 2.0, 3.0):
        bucket.clear()
        parameter.grad = torch.full((2,), number, dtype=dtype)
        bucket.pack()
        bucket.fill_tail([number], None, None)
        bucket.unpack([1.0])
        if number == 1.0:
            held = kept(parameter)
            assert bucket.gradients.data_ptr() == memory
    assert held is not None and float(held[0]) == 1.0
    assert bucket.tail.tolist() == [3.0] and bucket.contents[-1][-1] == 3.0
    assert parameter.grad is not None and parameter.grad.tolist() == [3.0, 3.0]


def test_a_bucket_of_which_nothing_is_kept_is_used_again() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    bucket = Flat([parameter], 1)
    memory = bucket.gradients.data_ptr()
    for _ in range(3):
        bucket.clear()
        parameter.grad = torch.ones(2)
        bucket.take(parameter)
        bucket.pack()
        bucket.unpack([1.0])
    bucket.clear()
    assert bucket.gradients.data_ptr() == memory
