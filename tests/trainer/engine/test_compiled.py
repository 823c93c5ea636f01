"""torch.compile: what is compiled trains what a plain loop trains, in a world that changes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import trained, travelled
from tests.trainer.engine.plain import Swell, data, numbers, plainly, require_same

SAMPLES, BATCH, EPOCHS = 37, 16, 3


def compiled(make: Any, log: list[Any]) -> None:
    """The loss, and all of the update, are compiled; a moving average counts in the loss."""
    torch.manual_seed(0)
    x, y = data(SAMPLES)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)

    def loss_of(part: Any) -> Any:
        out = model(x[part])
        return (out - y[part]).square().sum() + (out - average(x[part])).square().sum()

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def follow() -> None:
        with torch.no_grad():
            for one, other in zip(average.parameters(), model.parameters(), strict=True):
                one.lerp_(other, 0.1)

    if make is Swell:
        fast = functools.partial(torch.compile, backend="aot_eager", dynamic=True)
        loss_of, update, follow = fast(loss_of), fast(update), fast(follow)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    for step in make(SAMPLES, BATCH, EPOCHS, **parts):
        with step:
            follow()
            for part in step.split(None):
                (loss_of(part) / step.batch_size).backward()
            update()
        if step.applied:
            log.append(numbers(model, average))


def test_what_is_compiled_trains_the_same_in_a_world_that_changes() -> None:
    """Of three one is killed in a step; later the two pause, and one that has nothing is rank 0."""
    expected = plainly(compiled)
    stages = [
        Stage((0, 1, 2), 1, 3, dies=1),
        Stage((0, 2), 3, 5, asks=1),
        Stage((3, 2, 0), 6),
    ]
    outcomes = travelled(stages, functools.partial(compiled, Swell))
    assert {member: one.error for member, one in outcomes.items()} == {0: "", 2: "", 3: ""}
    for member, first in ((0, 0), (2, 0), (3, 5)):
        require_same(outcomes[member].log, expected[first:], first)


def counting(log: list[Any]) -> None:
    """Logs how often the model, the loss and the update were compiled, after each step."""
    from trainer import elastic
    from trainer.engine import replicas

    settings: Any = replicas
    settings.SHARE, settings.LEAST = 1e9, 4  # so often is the state examined
    x, y = data(SAMPLES)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    counters = [CompileCounter() for _ in range(3)]
    whole: list[Any] = [
        model,
        lambda part: (model(x[part]) - y[part]).square().sum(),
        lambda: optimizer.step(),
    ]
    made: list[Any] = [torch.compile(a, backend=b) for a, b in zip(whole, counters, strict=True)]
    fast, loss_of, update = made
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(36, 12, unit=4), epochs=4):
        with step:
            for part in step.split(None):
                ((fast(x[part]).sum() + loss_of(part)) / step.batch_size).backward()
            update()
            optimizer.zero_grad()
        log.append([one.frame_count for one in counters])


def test_what_is_compiled_is_compiled_once() -> None:
    """What Swell counts in its hooks is no part of it."""
    (outcome,) = trained(1, counting)
    assert outcome.error == ""
    assert outcome.log == [[1, 1, 1]] * 12
