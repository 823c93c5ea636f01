"""Ranks, and runs that go on, have the same samples; a program with others does not end well."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import trained
from tests.trainer.ranks import PATIENCE, alone
from trainer.checkpoints.manifest import committed_steps
from trainer.protocol.session import CheckpointSettings, Session
from trainer.rundir.directory import RunDirectory

SAMPLES, BATCH = 24, 8


def loop(
    first: int, workers: int, log: list[Any], ends: int = 0, spread: int = 0, spare: bool = False
) -> None:
    """Trains on samples that begin with one number; those of the second rank with another."""
    from trainer import elastic

    if spare:  # it has no loaders before it is needed
        os.environ.update(Session(spare=True).to_env())
    torch.manual_seed(0)
    model = nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = elastic.State(model=model, optimizer=optimizer)
    data = [float(first + place + spread * os.getpid()) for place in range(SAMPLES)]
    batches = elastic.batches(data, BATCH)
    for step in elastic.steps(state, batches, epochs=2, data=data, workers=workers):
        with step:
            if step.number == ends:
                raise ValueError(f"in step {ends}")
            for _ in step.split(None):
                loss = model(step.batch.double()[:, None] / SAMPLES).sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
        if step.applied:
            log.append(step.number)


@pytest.mark.parametrize(("workers", "spare"), [(0, False), (1, False), (1, True)])
def test_ranks_with_other_samples_take_no_step(workers: int, spare: bool) -> None:
    for outcome in trained(2, functools.partial(loop, 0, workers, spread=1, spare=spare)):
        assert outcome.log == []
        assert outcome.error.startswith(
            "Mistake: the workers do not loop over the same: by rank, they have other samples on "
            "ranks 0 and 1, in as many"
        )


def evaluated_on_its_own(log: list[Any]) -> None:
    from trainer import Task, fit

    class Evaluated(Task):
        global_batch = BATCH

        def dataset(self) -> Tensor:
            return torch.arange(SAMPLES)

        def validation(self) -> Tensor:
            return torch.arange(SAMPLES) + os.getpid()

        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

        def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=0.01)

        def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
            log.append("a step")
            loss: Tensor = model(batch[:, None].float()).mean()
            return loss

    fit(Evaluated())


def test_ranks_do_not_evaluate_other_samples() -> None:
    for outcome in trained(2, evaluated_on_its_own):
        assert outcome.log == [] and "they have other samples on ranks 0 and 1" in outcome.error


def growing(by: int, log: list[Any]) -> None:
    from trainer import elastic

    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = elastic.State(model=model, optimizer=optimizer)
    data = [torch.ones(1)] * SAMPLES
    for step in elastic.steps(state, elastic.batches(data, BATCH), epochs=2, data=data):
        with step:
            for _ in step.split(None):
                (model(step.batch).sum() / step.batch_size).backward()
            optimizer.step()
        log.append(step.number)
        if step.epoch_done:
            data += [torch.zeros(1)] * by


def test_samples_that_come_later_are_not_passed_over() -> None:
    (outcome,) = trained(1, functools.partial(growing, 8))
    assert outcome.log == [1, 2, 3]
    assert "had 24 samples when training began, and has 32 at the start of epoch 2" in outcome.error
    (outcome,) = trained(1, functools.partial(growing, 0))
    assert (len(outcome.log), outcome.error) == (6, "")


def begun(folder: Path, first: int, ends: int) -> tuple[list[Any], str]:
    settings = CheckpointSettings(every_steps=1)
    os.environ.update(Session(run_dir_url=str(folder), checkpoint=settings).to_env())
    log: list[Any] = []
    try:
        loop(first, 0, log, ends)
    except Exception as error:
        deadline = time.monotonic() + PATIENCE
        while not committed_steps(RunDirectory(str(folder))):  # one may still be written
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return log, f"{type(error).__name__}: {error}"
    return log, ""


def test_a_run_does_not_go_on_with_other_samples_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    log, error = alone(begun, tmp_path, 0, 5)
    assert log[-1] == 4 and error == "ValueError: in step 5"
    log, error = alone(begun, tmp_path, 1, 0)
    assert log == [] and "does not fit its program any more: the data set had other" in error
    log, error = alone(begun, tmp_path, 0, 0)
    assert log[-1] == 6 and error == ""
