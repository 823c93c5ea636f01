"""``--override``: a number of an optimizer's is another from now on, or an error says why not."""

from __future__ import annotations

import pytest
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from trainer.engine.beginning import override
from trainer.engine.mistake import Mistake
from trainer.engine.state import State


def test_an_override_keeps_the_place_in_the_schedule() -> None:
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=0.5)
    schedule = StepLR(optimizer, 2, 0.5)
    state = State(model=model, optimizer=optimizer, schedule=schedule)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert override(state, {"lr": 0.125, "weight_decay": 1}) == [
        "optimizer's lr is 0.125 from now on",
        "optimizer's weight_decay is 1 from now on",
    ]
    (group,) = optimizer.param_groups
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (0.0625, 0.125, 1)
    schedule.step()
    rates = (group["lr"], schedule.base_lrs, schedule.get_last_lr())
    assert rates == (0.03125, [0.125], [0.03125])


@pytest.mark.parametrize("name", ["lrr", "params", "foreach"])
def test_an_override_of_what_no_optimizer_has_is_refused(name: str) -> None:
    model = nn.Linear(1, 1)
    state = State(model=model, optimizer=SGD(model.parameters(), lr=0.4))
    with pytest.raises(
        Mistake, match=rf"--override {name}=2: no optimizer .* there are dampening, "
    ):
        override(state, {name: 2.0})


@pytest.mark.parametrize(
    "name, was", [("betas", r"\(0\.9, 0\.999\)"), ("amsgrad", "False"), ("nesterov", "False")]
)
def test_an_override_of_what_is_no_number_is_refused(name: str, was: str) -> None:
    model = nn.Linear(1, 1)
    kind = SGD if name == "nesterov" else Adam
    state = State(model=model, optimizer=kind(model.parameters(), lr=0.1))
    told = rf"--override {name}=1: optimizer's {name} is {was}, and no number; set it in the "
    with pytest.raises(Mistake, match=told):
        override(state, {name: 1.0})
