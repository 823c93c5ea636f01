"""Batches that loaders make ahead are those that the steps would have made, in any world."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import CHANGING, Outcome, trained, travelled
from tests.trainer.ranks import alone
from trainer.protocol.session import Session

SAMPLES, BATCH, UNIT, EPOCHS = 44, 12, 3, 3
STEPS_PER_EPOCH = -(-SAMPLES // BATCH)
STEPS = EPOCHS * STEPS_PER_EPOCH
Entry = tuple[int, int, float, list[tuple[int, int, float]]]


class Augmented:
    """Samples with noise of all three kinds of generators, and their numbers."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = random.random() + np.random.random() + float(torch.rand((), dtype=torch.float64))
        return torch.tensor([index / SAMPLES + noise / 10], dtype=torch.float64), index


def loop(
    workers: int,
    log: list[Any],
    unit: int = UNIT,
    kills: Collection[int] = (),
    prefetch: int = 2,
    spare: bool = False,
) -> None:
    """Logs of each step what it took, and what came of it; kills its loaders in some steps.

    As a spare it makes the batches of its first three steps itself.
    """
    from trainer import elastic

    if spare:
        os.environ.update(Session(spare=True).to_env())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.3), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state = elastic.State(model=model, optimizer=optimizer)
    data = Augmented()
    batches = elastic.batches(data, BATCH, unit=unit)
    steps = elastic.steps(
        state, batches, epochs=EPOCHS, data=data, workers=workers, prefetch=prefetch
    )
    for step in steps:
        taken: list[tuple[int, int, float]] = []
        with step:
            if spare:
                supply = elastic.running()._supply  # type: ignore[union-attr]
                if step.number == 4:
                    supply.wait()
                assert supply._makes_here == (step.number < 4) or step.number in (2, 3)
            if step.number in kills:
                for pid in elastic.running()._supply.pids:  # type: ignore[union-attr]
                    os.kill(pid, signal.SIGKILL)
            for part in step.split(None):
                x, samples = step.batch
                assert samples.tolist() == part.tolist()
                assert step.batch[0] is x, "asked for again, it is the same"
                taken += [(step.epoch, int(i), float(v)) for i, v in zip(samples, x, strict=True)]
                loss = (model(x) - x.sin()).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            log.append((step.number, step.rank, step.metrics["loss"], taken))


def logged(workers: int, **how: Any) -> list[Entry]:
    log: list[Entry] = []
    loop(workers, log, **how)
    return log


@functools.cache
def plainly() -> list[Entry]:
    """What a world of one does that makes its batches itself."""
    found: list[Entry] = alone(logged, 0)
    return found


def differences(outcomes: Collection[Outcome], dead: int = 0) -> list[str]:
    """What is not as in a world of one: an error, a step's loss, or who took which samples.

    The ``dead`` tell nothing of what they took; the steps that they took part in are known.
    """
    found = [one.error for one in outcomes if one.error]
    losses = {number: loss for number, _, loss, _ in plainly()}
    meant = {number: sorted(taken) for number, _, _, taken in plainly()}
    taken: dict[int, list[tuple[int, int, float]]] = {}
    for outcome in outcomes:
        for number, _, loss, samples in outcome.log:
            if loss != pytest.approx(losses[number], rel=1e-9):
                found.append(f"step {number} has the loss {loss}, not {losses[number]}")
            taken.setdefault(number, []).extend(samples)
    if sorted(taken) != list(range(1, STEPS + 1)):
        found.append(f"the steps are {sorted(taken)}")
    for number, samples in taken.items():
        if number >= dead and sorted(samples) != meant[number]:
            found.append(f"step {number} has other samples: {sorted(samples)}")
    ids = Counter(one[:2] for samples in taken.values() for one in samples)
    if not dead and ids != Counter((e, i) for e in range(EPOCHS) for i in range(SAMPLES)):
        found.append(f"not each sample was taken once: {ids}")
    return found


@pytest.mark.parametrize("workers, prefetch", [(1, 1), (3, 2)])
def test_alone_loaders_change_nothing(workers: int, prefetch: int) -> None:
    assert alone(functools.partial(logged, workers, prefetch=prefetch)) == plainly()


def test_a_spare_makes_its_batches_itself_until_loaders_are_ready() -> None:
    assert alone(functools.partial(logged, 2, spare=True)) == plainly()


def test_in_a_world_of_two_with_loaders_killed() -> None:
    assert differences(trained(2, functools.partial(loop, 2, kills=(3, 7)))) == []


def test_in_worlds_that_change_with_loaders_killed() -> None:
    outcomes = travelled(CHANGING, functools.partial(loop, 2, kills=(2, 6, 10)))
    assert differences(outcomes.values(), dead=4) == []


def test_without_units_a_share_is_a_batch_that_is_made_ahead() -> None:
    taken: dict[int, list[int]] = {}
    for outcome in trained(2, functools.partial(loop, 2, unit=0)):
        assert not outcome.error
        for number, _, _, samples in outcome.log:
            taken.setdefault(number, []).extend(index for _, index, _ in samples)
    meant = {number: [i for _, i, _ in samples] for number, _, _, samples in plainly()}
    assert {n: sorted(one) for n, one in taken.items()} == {n: sorted(x) for n, x in meant.items()}


def misuse(what: str) -> str:
    from trainer import elastic

    model = nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = elastic.State(model=model, optimizer=optimizer)
    data = None if what == "no data" else Augmented()
    try:
        for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), total=2, data=data):
            with step:
                step.batch  # noqa: B018
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_batch_of_no_data_set_is_refused() -> None:
    assert alone(misuse, "no data") == (
        "step.batch has no data set to take samples from; name it: elastic.steps(…, data=dataset)"
    )
