"""Shares that follow the workers' speed, in a pool of unequal workers.

Two workers train alike, but one sleeps four times as long for each sample. The ideal is
harmonic: a step of B samples takes B / (the sum of the speeds) when all finish together.
The figures are the median time of a step, and its ratio to that ideal.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rows import Options, Row, benchmark

BATCH = 48
PER_SAMPLE = (0.002, 0.008)  # seconds that each worker sleeps for a sample
LEARNING = 20  # steps in which the shares settle; they are not measured


def train(channel: Any, rank: int, balance: str, steps: int) -> list[float]:
    """One worker. Returns the seconds of every step but the first ones."""
    import os

    import torch
    from torch import nn

    from trainer.engine.data import Order
    from trainer.engine.state import State
    from trainer.engine.steps import Steps
    from trainer.protocol.session import Session

    os.environ.update(Session(balance=balance).to_env())
    torch.manual_seed(0)
    model = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = State(model=model, optimizer=optimizer)
    order = Order(BATCH * 1000, BATCH, 0)
    loop = Steps(state, order, LEARNING + steps, channel, Session(balance=balance), ("loss",), 0)
    ended: list[float] = []
    for step in loop:
        with step:
            x = torch.ones(len(step.indices), 16)
            time.sleep(PER_SAMPLE[rank] * len(x))
            (model(x).square().sum() / step.batch_size).backward()
            optimizer.step()
        ended.append(time.perf_counter())
    if loop.complete:
        loop.done()
    return [b - a for a, b in zip(ended[LEARNING:], ended[LEARNING + 1 :], strict=False)]


def step_seconds(balance: str, steps: int) -> float:
    """The median time of a step in a world of the two workers."""
    from tests.trainer.ranks import formed, workers
    from trainer.protocol.messages import Done

    with workers(train, [0, balance, steps], [1, balance, steps]) as two:
        with formed(1, two):
            two[0].until(Done)
        seconds: list[float] = two[0].exit()
        two[1].exit()
    return statistics.median(seconds)


def unequal(options: Options) -> Iterator[Row]:
    """Even shares and shares by speed, one after the other in each run."""
    steps = 20 if options.quick else 60
    ideal = BATCH / sum(1 / seconds for seconds in PER_SAMPLE)
    yield Row.of("ideal", "unequal", "step", "s", [ideal])
    took = [
        (step_seconds("even", steps), step_seconds("speed", steps)) for _ in range(options.runs)
    ]
    for name, values in zip(("even", "speed"), zip(*took, strict=True), strict=True):
        yield Row.of(name, "unequal", "step", "s", values)
        yield Row.of(name, "unequal", "to the ideal", "x", [one / ideal for one in values])


if __name__ == "__main__":
    sys.exit(benchmark(__doc__, {"unequal": unequal}))
