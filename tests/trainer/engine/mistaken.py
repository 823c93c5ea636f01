"""Training code that does one thing wrong, and what its ranks are told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import trained

SAMPLES, BATCH = 24, 8
X = torch.linspace(-1, 1, SAMPLES * 4).view(SAMPLES, 4)


@dataclass
class Program:
    """A loop that does one thing wrong; ``log`` has a rank's weights after each step."""

    log: list[Any]
    rank: int = -1
    epochs: int = 2
    samples: int = SAMPLES
    batch: int = BATCH
    seed: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model: Any = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=0.01)

    def run(self, **parts: Any) -> Iterator[Any]:
        from trainer import elastic

        parts = {"model": self.model, "optimizer": self.optimizer, **parts}
        self.state = elastic.State(**{name: one for name, one in parts.items() if one is not None})
        batches = elastic.batches(self.samples, self.batch, self.seed)
        for step in elastic.steps(self.state, batches, epochs=self.epochs):
            self.rank = step.rank
            yield step

    def loss(self, step: Any) -> Tensor:
        loss: Tensor = self.model(X[step.indices % SAMPLES]).square().sum() / step.batch_size
        return loss

    def train(self, step: Any) -> None:
        with step:
            self.loss(step).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.log.append(float(self.model[0].weight.sum()))


def rank_in_the_world() -> int:
    """Which worker this is, before it is in a world: for programs that are not alike."""
    import multiprocessing

    return sum(multiprocessing.current_process()._identity) % 2


def _run(program: Callable[[Program], None], log: list[Any]) -> None:
    program(Program(log))


def errors_of(program: Callable[[Program], None]) -> list[str]:
    """What ranks were told. One may be first; another that loses it then is told nothing."""
    outcomes = trained(2, functools.partial(_run, program))
    found = [outcome.error for outcome in outcomes if outcome.error]
    assert found, "it was not refused"
    return found
