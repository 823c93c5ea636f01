"""Whatever a training loop holds goes on elsewhere as if nothing had happened."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from trainer.checkpoints.tree import flatten, unflatten
from trainer.engine.generators import (
    Probe,
    generators_state,
    load_generators_state,
    seed_step,
)
from trainer.engine.state import State

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam, tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "adamw, two groups": lambda p: torch.optim.AdamW(
        [{"params": list(p)[:1], "lr": 0.1}, {"params": list(p)[1:], "weight_decay": 0.0}]
    ),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, line_search_fn="strong_wolfe"),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "cosine": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


class Net(nn.Module):
    """Has dropout, statistics, and a buffer that ``state_dict`` leaves out."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Tanh())
        self.last = nn.Linear(5, 1)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        out: torch.Tensor = self.last(self.layers(x)) + 0.001 * self.seen
        return out


def holding(optimizer: str, scheduler: str = "step", seed: int = 0) -> State:
    torch.manual_seed(seed)
    model = Net()
    made = OPTIMIZERS[optimizer](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    return State(
        model=model, optimizer=made, schedule=SCHEDULERS[scheduler](made), scaler=scaler, best=0.0
    )


def train(state: State, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 6) + random.random() + float(np.random.rand())

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            state.optimizer.zero_grad()
            loss: torch.Tensor = state.model(x).square().mean()
            loss.backward()
            return loss

        if isinstance(state.optimizer, torch.optim.LBFGS):
            losses.append(state.optimizer.step(closure).item())
        else:
            state.optimizer.zero_grad()
            loss = state.model(x).square().mean()
            state.scaler.scale(loss).backward()
            state.scaler.step(state.optimizer)
            state.scaler.update()
            losses.append(loss.item())
        state.schedule.step()
        state.best = max(state.best, losses[-1])
        state.step += 1
    return [*losses, state.best, *state.schedule.get_last_lr(), state.scaler.get_scale()]


def carry(state: State) -> Any:
    """The state, as it is after it was sent: JSON, and tensors that share no memory."""
    skeleton, tensors = flatten(state.export())
    return unflatten(json.loads(json.dumps(skeleton)), [tensor.clone() for tensor in tensors])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_optimizer_goes_on_elsewhere_as_if_it_had_stayed(optimizer: str) -> None:
    here, there = holding(optimizer), holding(optimizer, seed=7)
    train(here, 3)
    tree = carry(here)
    expected = train(here, 4)
    there.load(tree)
    assert (there.step, there.clean) == (3, True)
    assert train(there, 4) == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_arrives_is_the_same_bit_for_bit(optimizer: str) -> None:
    """torch itself would round some of an optimizer's state to the parameters' precision."""
    here, there = holding(optimizer), holding(optimizer, seed=7)
    for state in (here, there):
        state.model.double()
    for _ in range(3):
        here.optimizer.zero_grad()
        here.model(torch.randn(8, 6).double()).square().mean().backward()
        if optimizer == "lbfgs":
            break
        here.optimizer.step()
    there.load(carry(here))
    assert there.digests() == here.digests()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_any_schedule_goes_on(scheduler: str) -> None:
    here, there = holding("sgd", scheduler), holding("sgd", scheduler, seed=7)
    train(here, 3)
    tree = carry(here)
    expected = train(here, 4)
    there.load(tree)
    assert train(there, 4) == expected


def test_a_state_that_was_never_trained_travels_too() -> None:
    here, there = holding("adam"), holding("adam", seed=7)
    there.load(carry(here))
    assert there.step == 0
    tree = carry(here)
    expected = train(here, 3)
    there.load(tree)
    assert train(there, 3) == expected


def test_values_are_attributes() -> None:
    state = State(model=nn.Linear(1, 1), best=0.5, names=["a"])
    state.best = 0.75
    other = State(model=nn.Linear(1, 1), best=0.0, names=[])
    other.load(carry(state))
    assert (other.best, other.names) == (0.75, ["a"])
    with pytest.raises(AttributeError, match="no 'worst'; it was made of model, best, names"):
        _ = state.worst


def test_an_attribute_that_would_not_travel_is_refused() -> None:
    state = State(model=nn.Linear(1, 1), best=0.5)
    with pytest.raises(
        AttributeError, match=r"'worst' is no part .* make it one: State\(…, worst="
    ):
        state.worst = 1.0
    assert not hasattr(state, "worst")


@pytest.mark.parametrize("name", ["step", "clean", "speed", "export", "_parts"])
def test_names_that_the_state_uses_are_refused(name: str) -> None:
    parts: dict[str, Any] = {name: 1}
    with pytest.raises(ValueError, match=f"State uses '{name}' itself"):
        State(**parts)


def test_a_state_of_other_parts_is_refused_by_name() -> None:
    here = State(model=nn.Linear(1, 1), best=0.0)
    there = State(model=nn.Linear(1, 1), worst=0.0)
    with pytest.raises(ValueError, match=r"differ in \['best', 'worst'\]"):
        there.load(carry(here))


def test_generators_go_on_from_their_state_and_repeat_themselves_from_a_seed() -> None:
    def draw() -> list[float]:
        return [
            random.random(),
            random.gauss(0, 1),
            float(np.random.randn()),
            float(torch.rand(())),
        ]

    draw()
    state = generators_state()
    drawn = draw()
    load_generators_state(state)
    assert draw() == drawn
    seed_step(1, 2, 3)
    drawn = draw()
    seed_step(1, 2, 3)
    assert draw() == drawn
    seed_step(1, 2, 4)
    assert draw() != drawn


@pytest.mark.parametrize(
    "draw, moved",
    [
        (lambda: None, False),
        (random.random, True),
        (lambda: random.getrandbits(32), True),
        (lambda: random.gauss(0, 1), True),
        (np.random.rand, True),
        (lambda: np.random.randn(312), True),
        (lambda: np.random.bytes(4 * 624), True),  # as many as NumPy makes at once
        (lambda: torch.rand(()), True),
        (lambda: torch.randn(()), True),
        (lambda: torch.randperm(2), True),
        (lambda: torch.bernoulli(torch.tensor(0.5)), True),
        (lambda: torch.rand((), generator=torch.Generator()), False),
        (lambda: random.seed(0), True),  # then it gives other numbers than it would have
    ],
)
def test_a_probe_finds_whoever_has_drawn_a_number(draw: Callable[[], Any], moved: bool) -> None:
    probe = Probe()
    for _ in range(2):
        probe.begin()
        draw()
        assert probe.moved == moved
