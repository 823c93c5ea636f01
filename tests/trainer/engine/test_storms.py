"""Each sample once, of each kind of data, through 30 random events with loaders killed.

SWELL_SEED=7 SWELL_EVENTS=30 pytest -m soak tests/trainer/engine/test_storms.py
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conformance.journey import Stage
from tests.trainer.data.sources import Counting, Seeking
from tests.trainer.engine.loops import travelled
from trainer.protocol.session import Session

SEED = int(os.environ.get("SWELL_SEED", "1"))
EVENTS = int(os.environ.get("SWELL_EVENTS", "30"))
BATCH, UNIT, LENGTH = 12, 3, 50
STEPS = 3 * EVENTS
PATIENCE = 3600.0  # seconds for all of a storm; it takes minutes


def stages(seed: int, events: int) -> list[Stage]:
    """Worlds of one to four; each ends when one of its members dies, or asks to leave."""
    chance = random.Random(seed)
    members, newest, step = [0, 1, 2], 2, 1
    found: list[Stage] = []
    for _ in range(events):
        last = step + chance.randrange(4)
        victim = chance.randrange(len(members))
        dies = len(members) > 1 and chance.random() < 0.5
        found.append(
            Stage(
                tuple(members),
                step,
                last,
                asks=None if dies else victim,
                dies=victim if dies else None,
            )
        )
        step = last if dies else last + 1
        gone = members[victim]
        stay = [one for one in members if one != gone]
        if not stay or (not dies and len(members) < 4 and chance.random() < 0.5):
            stay = members  # it was asked to pause, for those who come
        coming = chance.randint(len(stay) < 2, 4 - len(stay))
        members = [*stay, *range(newest + 1, newest + 1 + coming)]
        newest += coming
        chance.shuffle(members)
    return [*found, Stage(tuple(members), step)]


def data(kind: str) -> Any:
    from trainer.data import Mixture, Stream

    if kind == "map":
        return [divmod(place, LENGTH) for place in range(5 * LENGTH)]
    if kind == "mixture":
        sources = {name: [(at, n) for n in range(LENGTH)] for at, name in enumerate("abc")}
        return Mixture(sources, {"a": 3, "b": 2, "c": 1}, block=24)
    return Stream((Seeking if kind == "seeking" else Counting)(LENGTH), shuffle=10)


def loop(kind: str, folder: Path, log: list[Any]) -> None:
    """Notes what was taken in files, which outlive who wrote them; kills loaders now and then.

    All that will ever come are there from the start, so their loaders must not be.
    """
    from trainer import elastic

    os.environ.update(Session(spare=True).to_env())
    torch.manual_seed(0)
    model = nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = elastic.State(model=model, optimizer=optimizer)
    given, chance = data(kind), random.Random(os.getpid())
    batches = elastic.batches(given, BATCH, unit=UNIT)
    for step in elastic.steps(state, batches, total=STEPS, data=given, workers=2):
        taken: list[tuple[int, int]] = []
        with step:
            supply = elastic.running()._supply  # type: ignore[union-attr]
            if chance.random() < 0.5:  # else it makes its batches itself, until they are ready
                supply.wait()
            if chance.random() < 0.1:
                for pid in supply.pids[:1]:
                    os.kill(pid, signal.SIGKILL)
            for _ in step.split(None):
                ones, others = step.batch
                taken += zip(ones.tolist(), others.tolist(), strict=True)
                loss = model(others[:, None].double() / LENGTH).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
        if step.applied:
            with (folder / str(os.getpid())).open("a") as file:
                file.write(json.dumps([step.number, taken]) + "\n")


def meant(kind: str) -> dict[int, list[list[int]]]:
    """What the steps are to take, by number."""
    from trainer.engine.data import Order

    given = data(kind)
    order, found = Order.of(given, BATCH, 0), {}
    for step in range(STEPS):
        start, stop = order.bounds(step)
        places = order.take(order.epoch_of(step), start, stop).tolist()
        found[step + 1] = sorted(list(given[place]) for place in places)
    return found


def test_a_plan_always_leaves_somebody_who_holds_the_state() -> None:
    for seed in range(50):
        plan = stages(seed, EVENTS)
        assert len(plan) == EVENTS + 1 and plan[-1].first <= STEPS
        for one, then in itertools.pairwise(plan):
            left = {*one.members} - {one.members[one.dies] if one.dies is not None else -1}
            assert left & {*then.members} and len(then.members) <= 4


@pytest.mark.soak
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("kind", ["map", "seeking", "counting", "mixture"])
def test_each_sample_is_used_once_through_a_storm(kind: str, tmp_path: Path) -> None:
    print(f"SWELL_SEED={SEED}")  # seen when the test fails
    outcomes = travelled(
        stages(SEED, EVENTS), functools.partial(loop, kind, tmp_path), (), PATIENCE
    )
    assert {one.error for one in outcomes.values()} == {""}
    taken: dict[int, list[list[int]]] = {}
    for file in tmp_path.iterdir():
        for line in file.read_text().splitlines():
            number, samples = json.loads(line)
            taken.setdefault(number, []).extend(samples)
    expected = meant(kind)
    assert {number: sorted(of) for number, of in taken.items()} == expected
    if kind == "map" and STEPS > 21:
        epoch = Counter(tuple(one) for n in range(1, 22) for one in taken[n])
        assert set(epoch.values()) == {1} and len(epoch) == 5 * LENGTH
