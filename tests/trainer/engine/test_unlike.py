"""Workers that do not train alike are told apart, before the update, in plain words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.trainer.engine.mistaken import Program, errors_of, rank_in_the_world


def other_data(p: Program) -> None:
    p.samples += rank_in_the_world()
    for step in p.run():
        p.train(step)


def other_batch(p: Program) -> None:
    p.batch += rank_in_the_world()
    for step in p.run():
        p.train(step)


def other_seed(p: Program) -> None:
    p.seed += rank_in_the_world()
    for step in p.run():
        p.train(step)


def other_layers_frozen(p: Program) -> None:
    for step in p.run():
        p.model[0 if step.rank else 2].requires_grad_(step.number == 1)
        p.train(step)


def one_like_it_frozen(p: Program) -> None:
    """What the ranks train has the same shapes, so that it could be summed."""
    p.model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    p.optimizer = torch.optim.SGD(p.model.parameters(), lr=0.1)
    for step in p.run():
        p.model[step.rank].requires_grad_(step.number == 1)
        p.train(step)


def a_step_skipped(p: Program) -> None:
    for step in p.run():
        with step:
            p.loss(step).backward()
            if not (step.rank == 1 and step.number == 3):
                p.optimizer.step()
            p.optimizer.zero_grad()
        p.log.append(float(p.model[0].weight.sum()))


def the_last_step_skipped(p: Program) -> None:
    for step in p.run():
        with step:
            p.loss(step).backward()
            if not (step.rank == 1 and step.number == step.total):
                p.optimizer.step()
            p.optimizer.zero_grad()


def no_backward_of_its_own(p: Program) -> None:
    for step in p.run():
        with step:
            if step.rank == 0 or step.number < 2:
                p.loss(step).backward()
            nn.utils.clip_grad_norm_(p.model.parameters(), 0.05)
            p.optimizer.step()
            p.optimizer.zero_grad()


def an_own_value(p: Program) -> None:
    for step in p.run(seen=0):
        p.train(step)
        p.state.seen += step.rank


def an_own_learning_rate(p: Program) -> None:
    for step in p.run():
        p.optimizer.param_groups[0]["lr"] = 0.01 * (1 + step.rank)
        p.train(step)


def noise_in_the_update(p: Program) -> None:
    for step in p.run():
        p.train(step)
        with torch.no_grad():
            p.model[2].bias += torch.rand(()) * 1e-3


def a_counter_in_a_buffer(p: Program) -> None:
    p.model.register_buffer("seen", torch.zeros(()))
    for step in p.run():
        p.model.seen += int(step.indices.sum())
        p.train(step)


def a_part_of_its_own(p: Program) -> None:
    class Meter:
        seen = 0

        def state_dict(self) -> dict[str, int]:
            return {"seen": self.seen}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.seen = state["seen"]

    meter = Meter()
    for step in p.run(meter=meter):
        p.train(step)
        meter.seen += step.rank


def counted_by_some(p: Program) -> None:
    for step in p.run():
        with step:
            if step.rank == 0:
                step.mean_over(len(step.indices))
            p.loss(step).backward()
            p.optimizer.step()


def named_in_spite_of_batch_statistics(p: Program) -> None:
    p.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    p.optimizer = torch.optim.SGD(p.model.parameters(), lr=0.1)
    for step in p.run(seen=0):
        p.train(step)
        p.state.seen += step.rank


UNLIKE: dict[Callable[[Program], None], str] = {
    a_part_of_its_own: "state.meter is the first that differs",
    counted_by_some: "step 1: some workers have a loss that is a mean, and some one",
    named_in_spite_of_batch_statistics: "state.seen is the first that differs",
    other_data: "data sets of 24, 25 samples",
    other_batch: "global batches of 8, 9",
    other_seed: "other seeds for the order",
    other_layers_frozen: "do not train the same parameters",
    one_like_it_frozen: "requires_grad, or the models, differ",
    a_step_skipped: "step 4: rank 0 and rank 1 do not hold the same: some have taken optimizer",
    the_last_step_skipped: "step 6: rank 0 and rank 1 do not hold the same",
    no_backward_of_its_own: "step 2: rank 1 came to optimizer.step() before gradients were summed",
    an_own_value: "state.seen is the first that differs",
    an_own_learning_rate: "step 2: rank 0 and rank 1 do not hold the same: model.0.weight is the",
    noise_in_the_update: "model.2.bias is the first that differs",
    a_counter_in_a_buffer: "model.seen is the first that differs",
}


@pytest.mark.parametrize("program", UNLIKE, ids=lambda one: one.__name__)
def test_workers_that_are_not_alike_are_told_apart(program: Callable[[Program], None]) -> None:
    for error in errors_of(program):
        assert error.startswith("Mistake: ")
        text = error.replace("25, 24", "24, 25").replace("9, 8", "8, 9")  # by rank
        assert UNLIKE[program] in text
