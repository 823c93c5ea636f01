"""A run that an older Swell has begun goes on in the order of then, with newcomers and without."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.conformance.journey import Itinerary, Stage
from tests.trainer.engine.loops import travelled
from tests.trainer.ranks import alone
from trainer.engine.data import NEWEST, WHOLE, Order
from trainer.protocol.session import CheckpointSettings, Session

SAMPLES, BATCH = 40, 4
X = torch.linspace(-1, 1, SAMPLES, dtype=torch.float64).unsqueeze(1)


def loop(log: list[Any], total: int = 14, older: bool = False) -> None:
    """Logs the samples of each step; begun by an ``older`` Swell, in its order."""
    from trainer import elastic

    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = elastic.State(model=model, optimizer=optimizer)
    if older:
        state.order_version = WHOLE
    for step in elastic.steps(state, elastic.batches(X, BATCH), total=total):
        with step:
            log.append((step.number, step.indices.tolist()))
            model(X[step.indices]).square().sum().backward()
            optimizer.step()


def meant(version: int, first: int, last: int) -> list[tuple[int, list[int]]]:
    order = Order(SAMPLES, BATCH, 0, version=version)
    taken = [(one, order.epoch_of(one - 1), *order.bounds(one - 1)) for one in range(first, last)]
    return [(number, order.take(epoch, *bounds).tolist()) for number, epoch, *bounds in taken]


def saved(url: str, total: int, older: bool) -> list[Any]:
    settings = CheckpointSettings(every=0.0, every_steps=3)
    os.environ.update(Session(url, f"w-{os.getpid()}", checkpoint=settings).to_env())
    log: list[Any] = []
    loop(log, total, older)
    return log


def test_what_begins_now_has_the_newest_order() -> None:
    assert alone(partial(_logged, loop)) == meant(NEWEST, 1, 15)


def test_a_checkpoint_names_its_order_and_is_continued_in_it(tmp_path: Path) -> None:
    assert alone(saved, str(tmp_path), 6, True) == meant(WHOLE, 1, 7)
    manifest = json.loads((tmp_path / "checkpoints/step-000000006/manifest.json").read_text())
    assert manifest["about"]["order"] == WHOLE
    assert alone(saved, str(tmp_path), 14, False) == meant(WHOLE, 7, 15)
    manifest = json.loads((tmp_path / "checkpoints/step-000000014/manifest.json").read_text())
    assert manifest["about"]["order"] == WHOLE, "in each of its checkpoints"


def test_a_newcomer_takes_the_order_of_the_others() -> None:
    stages = [Stage((0,), last=5, asks=0), Stage((0, 1), first=6)]
    outcomes = travelled(stages, Older())
    assert not [one.error for one in outcomes.values() if one.error]
    whole: dict[int, list[int]] = {}
    for rank in (0, 1):
        for number, samples in outcomes[rank].log:
            whole.setdefault(number, []).extend(samples)
    assert [*whole.items()] == meant(WHOLE, 1, 15)


class Older:
    """The worker that comes first was begun by an older Swell; whoever joins it was not."""

    def __call__(self, log: list[Any]) -> None:
        from trainer.protocol.channel import current_channel

        channel = current_channel()
        assert isinstance(channel, Itinerary)
        loop(log, older=channel.stays[0].form.generation == 1)


def _logged(function: Any) -> list[Any]:
    log: list[Any] = []
    function(log)
    return log
