"""How much work a sample is, as its task says, or as it is counted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.trainer.ranks import alone
from trainer.engine.mistake import Mistake
from trainer.task import Task
from trainer.training.rates import flops_of

WIDE = 16


def counted(flops: Any) -> tuple[list[dict[str, Any]], list[float], list[float]]:
    """What a task of 4 samples a batch tells, its tokens of each step, and its parameters."""
    import torch

    from trainer.loop import Loop
    from trainer.protocol.channel import LoneChannel
    from trainer.protocol.messages import Event, FromWorker
    from trainer.protocol.session import Session

    class Told(LoneChannel):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[dict[str, Any]] = []

        def send(self, message: FromWorker) -> None:
            if isinstance(message, Event) and message.name == "rates":
                self.events.append(message.fields)
            super().send(message)

    class Rated(Task):
        global_batch, steps, unit = 4, 3, 2
        flops_per_sample = flops

        def dataset(self) -> list[Any]:
            return [torch.full((WIDE,), 1.0 + number) for number in range(8)]

        def model(self) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(WIDE, WIDE))

        def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=1e-4)

        def loss(self, model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = model(batch).square().mean()
            return loss

        def tokens(self, batch: torch.Tensor) -> int:
            tokens.append(float(len(batch) * 7))
            return len(batch) * 7

    tokens: list[float] = []
    channel = Told()
    loop = Loop(Rated(), channel, Session())
    loop.run()
    parameters = [float(one) for one in loop.state.model.parameters() for one in one.flatten()]
    metric = loop.state.metrics["tokens_per_sample"]
    return channel.events, [*tokens, metric], parameters


def test_operations_of_a_sample_are_told_once_and_counting_them_changes_nothing() -> None:
    said, tokens, plain = alone(counted, 1e9)
    assert said == [{"flops": 1e9, "device": "cpu"}]
    assert tokens[-1] == 7.0, "on average, of each sample"
    found, _, after = alone(counted, "count")
    # y = x W: 2 WIDE^2 operations forward, as many for the gradient of W; x needs none.
    assert found == [{"flops": 4.0 * WIDE * WIDE, "device": "cpu"}]
    assert after == plain
    nothing, _, same = alone(counted, None)
    assert (nothing, same) == ([], plain)


@pytest.mark.parametrize("wrong", [0, -1.0, math.inf, math.nan, "many", True, [1]])
def test_what_is_no_number_of_operations_is_refused(wrong: Any) -> None:
    class Wrong(Task):
        flops_per_sample = wrong

    with pytest.raises(Mistake, match="flops_per_sample is"):
        flops_of(Wrong())
