"""One training loop for both: over Swell's steps, and over the steps of a plain loop."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Run = Callable[..., None]
RTOL, ATOL = 1e-9, 1e-12


def data(samples: int, width: int = 4) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, width, generator=torch.Generator().manual_seed(1)).double()
    return x, x.sum(1, keepdim=True) * 10


class Swell:
    """What the training code below needs of a loop: here, Swell's."""

    def __init__(self, samples: int, batch: int, epochs: int, **parts: Any) -> None:
        from trainer import elastic

        self.state = elastic.State(**parts)
        self._steps = elastic.steps(self.state, elastic.batches(samples, batch), epochs=epochs)

    def __iter__(self) -> Any:
        yield from self._steps


class Whole:
    """A step of a plain loop: the whole batch, nothing around it."""

    def __init__(self, number: int, epoch: int, total: int, indices: Tensor) -> None:
        self.number, self.epoch, self.indices = number, epoch, indices
        self.batch_size = len(indices)
        self.progress = (number - 1) / total
        self.applied = True
        self._counted = 0.0

    def __enter__(self) -> Whole:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def split(self, most: int | None) -> Any:
        return self.indices.split(most or len(self.indices))

    def add(self, **numbers: Any) -> None:
        return None

    def reduce(self) -> None:
        return None


class Plain:
    """The same without Swell."""

    def __init__(self, samples: int, batch: int, epochs: int, **parts: Any) -> None:
        from trainer.engine.data import Order

        self._order, self._epochs = Order(samples, batch, 0), epochs

    def __iter__(self) -> Any:
        order = self._order
        total = order.steps_per_epoch * self._epochs
        for number in range(total):
            start, stop = order.bounds(number)
            epoch = order.epoch_of(number)
            yield Whole(number + 1, epoch, total, order.permutation(epoch)[start:stop])


def numbers(*models: nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()]).tolist()


@functools.cache
def plainly(run: Run) -> list[Any]:
    """What ``run(make, log)`` logs in a plain loop."""
    log: list[Any] = []
    run(Plain, log)
    return copy.deepcopy(log)


def require_same(found: list[Any], expected: list[Any], first: int = 0) -> None:
    """Fails unless two logs have the same numbers, up to the order of additions.

    Args:
        found, expected: a number or a list of numbers for each step, or more.
        first: the number of the first entry, for who reads the failure.
    """
    assert len(found) == len(expected)
    for number, (numbers_found, wanted) in enumerate(zip(found, expected, strict=True), first):
        same = pytest.approx(wanted, rel=RTOL, abs=ATOL)
        assert numbers_found == same, f"entry {number}"
