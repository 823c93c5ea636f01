"""A newcomer goes on with what the others have by now, also where that is not what it was built as.

And what all ranks add to in their own way, batch statistics, is one and the same.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import CHANGING, Outcome, _follow, trained, travelled
from tests.trainer.ranks import Meeting, Worker, form, formed, workers, world_of
from trainer.protocol.messages import Done, Pause, Progress, Stopped

SAMPLES, BATCH, EPOCHS = 24, 6, 6
STEPS = EPOCHS * SAMPLES // BATCH
X = torch.linspace(-1, 1, SAMPLES * 4, dtype=torch.float64).view(SAMPLES, 4)
Y = X.sin().sum(1, keepdim=True)


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model[0].requires_grad_(False)
    return model


def loop(model: nn.Module, optimizer: Any, log: list[Any], change: Callable[[Any], None]) -> None:
    """Trains slowly enough to be interrupted; ``change`` is called before each step."""
    import time

    from trainer import elastic

    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), epochs=EPOCHS):
        time.sleep(0.02)
        change(step)
        with step:
            for part in step.split(None):
                loss = (model(X[part]) - Y[part]).square().sum() / step.batch_size
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            numbers = torch.cat([p.detach().flatten() for p in model.parameters()])
            buffers = [b.double().flatten() for b in model.buffers()]
            log.append((step.number, numbers.tolist(), torch.cat([*buffers, X[:0, 0]]).tolist()))


def unfreezes_at_a_step(log: list[Any]) -> None:
    model = backbone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def change(step: Any) -> None:
        if step.number == 5:  # a newcomer of a later step does not come by here
            model[0].requires_grad_(True)

    loop(model, optimizer, log, change)


def adds_a_group_once(log: list[Any]) -> None:
    model = backbone()
    optimizer = torch.optim.AdamW(model[2].parameters(), lr=0.01)
    added = False

    def change(step: Any) -> None:
        nonlocal added
        if step.epoch >= 1 and not added:  # a newcomer does it again
            added = True
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.001})

    loop(model, optimizer, log, change)


def adds_a_group_by_what_there_is(log: list[Any]) -> None:
    model = backbone()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.01, momentum=0.9)

    def change(step: Any) -> None:
        if step.epoch == 1 and len(optimizer.param_groups) == 1:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.001})

    loop(model, optimizer, log, change)


class Annealed(nn.Module):
    """Counts its own steps, in an attribute, and trains otherwise by them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 1, dtype=torch.float64)
        self.steps = 0
        self.warm = True

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) * (1 + self.steps / 10) + self.warm
        return out


def counts_in_an_attribute(log: list[Any]) -> None:
    model = Annealed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    counted = 0

    def change(step: Any) -> None:
        nonlocal counted
        if step.number != counted:  # a step that is given again is not counted twice
            counted = step.number
            model.steps += 1
            model.warm = model.steps < 4

    loop(model, optimizer, log, change)


def reached(worker: Worker, step: int) -> None:
    while worker.until(Progress).step < step:
        pass


def with_a_newcomer(run: Callable[[list[Any]], None]) -> list[Outcome]:
    """Two workers; one of them is drained after some steps, and another comes for it."""
    with workers(_follow, [run], [run], [run]) as members:
        first, second, newcomer = members
        with formed(1, [first, second]):
            reached(first, 7)
            for member in (first, second):
                member.send(Pause(1))
            for member in (first, second):
                assert member.until(Stopped).clean
            second.exit()
        with formed(2, [newcomer, first]):  # the newcomer is rank 0
            newcomer.until(Done)
        return [first.exit(), newcomer.exit()]


@pytest.mark.parametrize(
    "run",
    [
        unfreezes_at_a_step,
        adds_a_group_once,
        adds_a_group_by_what_there_is,
        counts_in_an_attribute,
    ],
    ids=lambda run: run.__name__,
)
def test_a_newcomer_trains_what_the_others_train(run: Callable[[list[Any]], None]) -> None:
    (undisturbed,) = trained(1, run)
    survivor, newcomer = with_a_newcomer(run)
    assert (undisturbed.error, survivor.error, newcomer.error) == ("", "", "")
    expected = {number: weights for number, weights, _ in undisturbed.log}
    assert [number for number, *_ in survivor.log] == list(range(1, STEPS + 1))
    assert 0 < len(newcomer.log) < STEPS
    for number, weights, _ in [*survivor.log, *newcomer.log]:
        assert weights == pytest.approx(expected[number], rel=1e-9, abs=1e-12), f"step {number}"


def teaches_itself(log: list[Any]) -> None:
    """From a step on, the model is kept near what it was then."""
    from trainer import elastic

    model = backbone().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = elastic.State(model=model, optimizer=optimizer)
    teacher: Any = None
    for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), epochs=EPOCHS):
        if step.number == 2:
            teacher = copy.deepcopy(model).requires_grad_(False)
        with step:
            for part in step.split(None):
                out = model(X[part])
                wanted = Y[part] if teacher is None else teacher(X[part])
                ((out - wanted).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()


def computes_otherwise(log: list[Any]) -> None:
    """From a step on, a layer computes otherwise; torch does not tell of it."""
    model = backbone()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.01)

    def change(step: Any) -> None:
        if step.number == 2:
            model[1].forward = torch.relu

    loop(model, optimizer, log, change)


def has_another_layer(log: list[Any]) -> None:
    """The same, by a module that takes its place behind torch's back."""
    model = backbone()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.01)

    def change(step: Any) -> None:
        if step.number == 2:
            model._modules["1"] = nn.ReLU()

    loop(model, optimizer, log, change)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (teaches_itself, "a Sequential computes in the step on other ranks, is no part of the"),
        (computes_otherwise, "model: the classes of its modules is the first that differs"),
        (has_another_layer, "model: the classes of its modules is the first that differs"),
    ],
)
def test_a_newcomer_that_would_compute_otherwise_is_told(
    run: Callable[[list[Any]], None], said: str
) -> None:
    outcomes = travelled(CHANGING, run)
    assert any(said in outcome.error for outcome in outcomes.values())
    assert all(outcome.error for outcome in outcomes.values())


class Of:
    """A loop over so many samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __call__(self, log: list[Any]) -> None:
        vars(sys.modules[__name__])["SAMPLES"] = self.samples
        model = backbone()
        loop(model, torch.optim.SGD(model[2].parameters(), lr=0.01), log, lambda step: None)


def test_a_newcomer_with_other_data_is_alone_at_fault() -> None:
    with workers(_follow, [Of(SAMPLES)], [Of(SAMPLES)], [Of(SAMPLES - 1)]) as members:
        first, second, newcomer = members
        with formed(1, [first, second]):
            reached(first, 7)
            for member in (first, second):
                member.send(Pause(1))
            (step,) = {member.until(Stopped).step for member in (first, second)}
        with Meeting(world_of(1, 1, 1, generation=2)) as meeting:
            form(meeting, [newcomer, first, second])
            for member in (first, second):
                assert member.until(Stopped) == Stopped(
                    2, step, clean=True, failed="a newcomer does not loop over the same"
                )
            error = newcomer.process.result().error
            assert error.startswith(
                "Mistake: the workers do not loop over the same: by rank, they have data sets of "
                "23, 24, 24 samples"
            )
        with formed(3, [first, second]) as started:
            assert [one.step for one in started] == [step, step]
            first.until(Done)
        assert [member.exit().error for member in (first, second)] == ["", ""]


def normalised(log: list[Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).double()
    model.append(nn.BatchNorm1d(1, dtype=torch.float64).eval())
    model.train()
    model[3].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loop(model, optimizer, log, lambda step: None)


@pytest.mark.parametrize("size", [2, 3])
def test_batch_statistics_are_those_of_all_ranks(size: int) -> None:
    (alone,) = trained(1, normalised)
    outcomes = trained(size, normalised)
    assert [one.error for one in outcomes] == [""] * size
    logs = [one.log for one in outcomes]
    assert all(log == logs[0] for log in logs)
    # The means of the first step's parts, by their sizes, are the mean of the whole.
    means, found = alone.log[0][2][:6], logs[0][0][2][:6]
    assert found == pytest.approx(means, rel=1e-9)
    assert logs[0][-1][2][-3:] == [0.0, 1.0, 0.0], "what only evaluates has no statistics to add"


def drifting(noise: float, log: list[Any]) -> None:
    """Ranks on unlike devices, played by one whose updates are rounded otherwise."""
    from trainer.engine import portable

    unlike: Any = portable
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    mine = -1

    def change(step: Any) -> None:
        nonlocal mine
        mine = step.rank

    def rounded(*_: Any) -> None:
        if mine == 1:
            with torch.no_grad():
                model.weight *= 1 + noise

    optimizer.register_step_post_hook(rounded)
    unlike.kind_of = lambda device: os.getpid()
    loop(model, optimizer, log, change)


def test_on_unlike_devices_rounding_is_not_a_fault() -> None:
    first, second = trained(2, functools.partial(drifting, 1e-12))
    assert (first.error, second.error) == ("", "")
    assert first.log[-1][1] == pytest.approx(second.log[-1][1], rel=1e-9)


def test_on_unlike_devices_more_than_rounding_is_a_fault() -> None:
    for outcome in trained(2, functools.partial(drifting, 0.1)):
        assert "rounding on unlike devices explains 0.001" in outcome.error
