"""The same numbers in every world, with randomness on: a batch is computed by units."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import trained, travelled
from tests.trainer.engine.plain import data, numbers
from trainer.engine.generators import seed_step
from trainer.engine.units import cuts, default_unit, idle

RTOL = 1e-9
SAMPLES, BATCH, UNIT, EPOCHS = 37, 16, 4, 3


# --- arithmetic ---------------------------------------------------------------------------------


@given(st.integers(0, 100), st.integers(1, 300), st.integers(1, 40))
def test_units_cover_the_batch_and_are_alike(start: int, count: int, unit: int) -> None:
    places = cuts(start, start + count, unit)
    sizes = [stop - begin for begin, stop in pairwise(places)]
    assert (places[0], places[-1]) == (start, start + count)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(unit, 3) or unit == 1
    if count % unit == 0:
        assert set(sizes) == {unit}
    if unit > 1 < count:
        assert min(sizes) > 1, "batch normalisation cannot do with a single sample"


@pytest.mark.parametrize(
    "batch, micro_batch, unit",
    [
        (64, None, 8),
        (32, None, 4),
        (1024, None, 8),
        (100, None, 5),
        (8, None, 2),
        (1, None, 1),
        (64, 16, 16),
        (8, 100, 8),
    ],
)
def test_by_default_units_are_many_and_divide_the_batch(
    batch: int, micro_batch: int | None, unit: int
) -> None:
    assert default_unit(batch, micro_batch) == unit


def test_units_that_do_not_divide_let_workers_wait() -> None:
    assert [idle(8, size) for size in (1, 2, 4, 8)] == [0, 0, 0, 0]
    assert idle(8, 5) == pytest.approx(0.2)
    assert idle(8, 3) == pytest.approx(1 / 9)


# --- a loop of one's own --------------------------------------------------------------------------


def model_of(norm: str) -> Any:
    torch.manual_seed(0)
    layers = {
        "momentum": nn.BatchNorm1d(8),
        "cumulative": nn.BatchNorm1d(8, momentum=None),
        "without": nn.BatchNorm1d(8, track_running_stats=False),
        "spectral": nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        "none": nn.Identity(),
    }
    rest = [nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1)]
    return nn.Sequential(nn.Linear(4, 8), layers[norm], *rest).double()


def augmented(x: Tensor) -> Tensor:
    return x + 0.1 * float(np.random.rand()) + 0.1 * torch.randn(x.shape, dtype=x.dtype)


def statistics(model: nn.Module) -> list[float]:
    # Of spectral normalisation a plain loop takes one iteration for each unit, and not for a step.
    named = [(name, one) for name, one in model.named_buffers() if "parametrizations" not in name]
    return [float(value) for _, one in named for value in one.flatten().double()]


def by_units(norm: str, log: list[Any]) -> None:
    from trainer import elastic

    x, y = data(SAMPLES)
    model = model_of(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    state = elastic.State(model=model, optimizer=optimizer)
    batches = elastic.batches(SAMPLES, BATCH, unit=UNIT)
    for step in elastic.steps(state, batches, epochs=EPOCHS):
        with step:
            for part in step.split(None):
                out = model(augmented(x[part]))
                loss = (out - y[part]).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            with torch.no_grad():  # noise in the update: the same on all ranks
                model[0].weight.grad.add_(torch.randn(8, 4, dtype=torch.float64) * 1e-3)
            optimizer.step()
        if step.applied:
            log.append([step.metrics["loss"], *statistics(model), *numbers(model)])


@functools.cache
def plainly(norm: str) -> list[list[float]]:
    """A plain loop that accumulates over the same units, seeded in the same way."""
    from trainer.engine.data import Order

    x, y = data(SAMPLES)
    model: Any = model_of(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    order = Order(SAMPLES, BATCH, 0)
    log = []
    for number in range(order.steps_per_epoch * EPOCHS):
        start, stop = order.bounds(number)
        samples = order.permutation(order.epoch_of(number))
        optimizer.zero_grad()
        total = 0.0
        for unit, (low, high) in enumerate(pairwise(cuts(start, stop, UNIT))):
            seed_step(0, number, unit)
            part = samples[low:high]
            loss = (model(augmented(x[part])) - y[part]).square().sum() / (stop - start)
            loss.backward()
            total += loss.item()
        seed_step(0, number, -1)
        model[0].weight.grad.add_(torch.randn(8, 4, dtype=torch.float64) * 1e-3)
        optimizer.step()
        log.append([total, *statistics(model), *numbers(model)])
    return log


@pytest.mark.parametrize("norm", ["momentum", "cumulative", "without", "none"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_world_computes_what_a_plain_loop_over_the_units_does(norm: str, size: int) -> None:
    for outcome in trained(size, functools.partial(by_units, norm)):
        assert outcome.error == ""
        assert len(outcome.log) == len(plainly(norm))
        for step, (found, wanted) in enumerate(zip(outcome.log, plainly(norm), strict=True)):
            assert found == pytest.approx(wanted, rel=RTOL, abs=1e-12), f"step {step + 1}"


def test_spectral_normalisation_iterates_once_in_a_step_whatever_the_world() -> None:
    (lone,) = trained(1, functools.partial(by_units, "spectral"))
    assert lone.error == ""
    for outcome in trained(3, functools.partial(by_units, "spectral")):
        assert outcome.error == ""
        for found, wanted in zip(outcome.log, lone.log, strict=True):
            assert found == pytest.approx(wanted, rel=RTOL, abs=1e-12)


def test_a_world_that_changes_computes_the_same() -> None:
    """Of three one is killed in a step; later the two pause, and one that has nothing is rank 0."""
    expected = plainly("momentum")
    stages = [
        Stage((0, 1, 2), 1, 3, dies=1),
        Stage((0, 2), 3, 5, asks=1),
        Stage((3, 2, 0), 6),
    ]
    outcomes = travelled(stages, functools.partial(by_units, "momentum"))
    assert {member: len(one.log) for member, one in outcomes.items()} == {0: 9, 2: 9, 3: 4}
    for outcome in outcomes.values():
        assert outcome.error == ""
        for found, wanted in zip(reversed(outcome.log), reversed(expected), strict=False):
            assert found == pytest.approx(wanted, rel=RTOL, abs=1e-12)


def from_indices(log: list[Any]) -> None:
    from trainer import elastic

    model = model_of("none")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(8, 8, unit=2), epochs=1):
        with step:
            model(data(8)[0][step.indices]).sum().backward()
            optimizer.step()


def test_samples_that_are_not_taken_by_units_are_refused() -> None:
    for outcome in trained(2, from_indices):
        assert "took its samples from step.indices: loop over step.split(None)" in outcome.error


def from_a_list(compiled: bool, log: list[Any]) -> None:
    from trainer import elastic

    model = model_of("none")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    state = elastic.State(model=model, optimizer=optimizer)
    compute = torch.compile(model, backend="eager") if compiled else model
    for step in elastic.steps(state, elastic.batches(8, 8, unit=2), epochs=1):
        with step:
            for part in list(step.split(None)):
                compute(data(8)[0][part]).sum().backward()
            optimizer.step()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_units_that_are_computed_from_a_list_are_refused(size: int, compiled: bool) -> None:
    """They would all have the random numbers of the last one."""
    for outcome in trained(size, functools.partial(from_a_list, compiled)):
        assert "all parts were taken from split() before the first was computed" in outcome.error


def synchronised(log: list[Any]) -> None:
    from trainer import elastic

    model = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    for _ in elastic.steps(elastic.State(model=model), elastic.batches(8, 8), epochs=1):
        pass


def test_synchronised_batch_normalisation_is_refused_with_units_as_the_remedy() -> None:
    (outcome,) = trained(1, synchronised)
    assert outcome.error.startswith("Mistake: model.1 is a SyncBatchNorm")
    assert "batches(…, unit=8)" in outcome.error
