"""What is recomputed in backward trains what a plain loop trains, in whatever way it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.trainer.engine.loops import alike
from tests.trainer.engine.plain import Run, data, numbers

WORLDS = (1, 2, 3)


class Recomputed(nn.Module):
    """A block that is used three times, its activations recomputed in backward."""

    def __init__(self, reentrant: bool | None, around: str) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.reentrant, self.around = reentrant, around
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        if self.around == "model":
            return self._again(self._all, x.requires_grad_())
        if self.around == "nested":
            return self._again(lambda v: self._again(self._all, v), x.requires_grad_())
        return self._all(x)

    def _all(self, v: Tensor) -> Tensor:
        v = self.first(v)
        for _ in range(3):
            v = self._again(self._one, v) if self.around == "blocks" else self._one(v)
        out: Tensor = self.last(v)
        return out

    def _one(self, v: Tensor) -> Tensor:
        return torch.tanh(self.block(v))

    def _again(self, function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        if self.reentrant is None:
            return function(v)
        out: Tensor = checkpoint(function, v, use_reentrant=self.reentrant)
        return out


def recomputed(reentrant: bool | None, around: str, split: bool, make: Any, log: list[Any]) -> None:
    torch.manual_seed(0)
    x, y = data(32)
    model = Recomputed(reentrant, around)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in make(32, 8, 3, model=model, optimizer=optimizer):
        with step:
            for part in step.split(2) if split else [step.indices]:
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            log.append(float(nn.utils.clip_grad_norm_(model.parameters(), 100.0)))
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


class Sometimes(nn.Module):
    """How often its block is used, and whether its branch is, depends on the step."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.branch, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.double()

    def forward(self, v: Tensor, times: int, branch: bool) -> Tensor:
        v = v.requires_grad_()
        for _ in range(times):
            v = checkpoint(lambda u: torch.tanh(self.block(u)), v, use_reentrant=True)
        if branch:
            v = v + self.branch(v)
        out: Tensor = self.last(v)
        return out


def sometimes(make: Any, log: list[Any]) -> None:
    """What was learned of earlier steps does not hold: gradients come late, and others not."""
    torch.manual_seed(0)
    x, y = data(32)
    model = Sometimes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in make(32, 8, 4, model=model, optimizer=optimizer):
        with step:
            n = step.number
            out = model(x[step.indices], 1 + n * n % 4, n % 3 == 0)
            ((out - y[step.indices]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


GOOD: dict[str, Run] = {
    "sometimes": sometimes,
    **{
        f"recomputed {'reentrant' if reentrant else 'once'}, {around}{', split' * split}": (
            functools.partial(recomputed, reentrant, around, split)
        )
        for reentrant in (True, False)
        for around in ("blocks", "model", "nested")
        for split in (False, True)
    },
}


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("name", GOOD)
def test_it_trains_what_a_plain_loop_trains(name: str, size: int) -> None:
    assert alike(GOOD[name], size) == size
