"""What the program changes by itself is changed once, though a worker is lost in the step.

Each program changes things in its block, before it or after it as if the step had been taken, and
they count in the loss. The second worker dies in the middle of a backward pass; the first takes the
step again, with a newcomer, and both end with what a plain loop ends with.
"""

from __future__ import annotations

import copy
import functools
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, MultiStepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.trainer.engine.loops import _follow
from tests.trainer.engine.plain import Run, Swell, data, numbers, plainly, require_same
from tests.trainer.ranks import Meeting, form, formed, workers, world_of
from trainer.engine.state import State
from trainer.engine.sums import Sums
from trainer.protocol.messages import Abort, Done, Exit, Stopped

LAST = 4  # the step after which the second worker is lost
SAMPLES, BATCH, EPOCHS = 24, 8, 3


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def loss_of(make: Any, model: Callable[[Tensor], Tensor], step: Any) -> Tensor:
    """The loss; where the second worker of the first world is to die, its gradient kills it."""
    x, y = data(SAMPLES)
    i = step.indices
    loss: Tensor = (model(x[i]) - y[i]).square().sum() / step.batch_size
    if make is Swell and step.number == LAST + 1 and step.rank == 1 and _first_world():
        loss.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGKILL))
    return loss


def take(make: Any, model: nn.Module, optimizer: torch.optim.Optimizer, step: Any) -> None:
    """Takes a step."""
    with step:
        loss_of(make, model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def _first_world() -> bool:
    from trainer import elastic

    running: Any = elastic.running()
    return bool(running._generations.number == 1)


class Average:
    """A class of a program's own that averages weights."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = copy.deepcopy(model.state_dict())
        self.counts = deque([0])

    def update(self, model: nn.Module) -> None:
        self.counts[0] += 1
        for name, value in model.state_dict().items():
            self.shadow[name].lerp_(value, 1 / (1 + self.counts[0]))

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "counts": list(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow, self.counts = state["shadow"], deque(state["counts"])


def values_and_rates(make: Any, log: list[Any]) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = ExponentialLR(optimizer, 0.9)
    loop = make(
        *(SAMPLES, BATCH, EPOCHS),
        **{"model": model, "optimizer": optimizer, "schedule": schedule},
        **({"seen": 0, "history": {"sums": [0.0]}} if make is Swell else {}),
    )
    state = loop.state if make is Swell else type("Values", (), {})()
    if make is not Swell:
        state.seen, state.history = 0, {"sums": [0.0]}
    for step in loop:
        optimizer.param_groups[0]["weight_decay"] += 0.01
        with step:
            state.seen += step.batch_size
            state.history["sums"][0] += 0.5
            schedule.step()
            weight = 1 + state.seen / 100 + state.history["sums"][0]
            (loss_of(make, model, step) * weight).backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            log.append([*numbers(model), float(state.seen), state.history["sums"][0]])


def weights_that_move_by_themselves(make: Any, log: list[Any]) -> None:
    class Moco(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = mlp()
            self.key = copy.deepcopy(self.query).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
                    key.data = key.data * 0.9 + query.data * 0.1  # no version tells of it
                next(self.query.parameters()).mul_(0.99)
            both: Tensor = self.query(x) + 0.5 * self.key(x)
            return both

    model = Moco()
    optimizer = torch.optim.SGD(model.query.parameters(), lr=0.05)
    for step in make(SAMPLES, BATCH, EPOCHS, model=model, optimizer=optimizer):
        take(make, model, optimizer, step)
        if step.applied:
            log.append(numbers(model))


class Helper:
    """What a module of a program's own may keep its counts in."""

    def __init__(self) -> None:
        self.count = 0


def attributes_of_modules(make: Any, log: list[Any]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()
            self.calls = np.int64(0)
            self.seen: list[int] = []
            self.scale: Tensor = torch.ones((), dtype=torch.float64)
            self.helper = Helper()
            self.late: list[float] = []
            self.begun = False

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen.append(1)
            self.scale *= 0.9
            self.helper.count += 1
            if self.begun:
                self.late.append(0.1)
            weight = 1 + int(self.calls) / 10 + len(self.seen) / 20 + sum(self.late)
            weighed: Tensor = self.inner(x) * (weight + self.helper.count / 50)
            scaled: Tensor = weighed * self.scale
            return scaled

    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for step in make(SAMPLES, BATCH, EPOCHS, model=model, optimizer=optimizer):
        model.begun = step.number > LAST
        take(make, model, optimizer, step)
        if step.applied:
            counts = [model.calls, len(model.seen), len(model.late), model.helper.count]
            log.append([*numbers(model), *map(float, counts)])


def after_the_block(make: Any, log: list[Any]) -> None:
    """Nothing here asks whether the step was taken. Some begins just before a worker is lost."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = MultiStepLR(optimizer, [2, LAST + 1, LAST + 1, LAST + 3], 0.7)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    later = AveragedModel(model)
    unseen = copy.deepcopy(model).requires_grad_(False)
    own = Average(model)
    parts = {"model": model, "optimizer": optimizer, "averaged": averaged}
    parts |= {"later": later, "unseen": unseen}
    for step in make(SAMPLES, BATCH, EPOCHS, **parts, schedule=schedule, own=own):
        take(make, model, optimizer, step)
        schedule.step()
        averaged.update_parameters(model)
        if step.number >= LAST:
            later.update_parameters(model)
        for average, weight in zip(unseen.parameters(), model.parameters(), strict=True):
            average.data.mul_(0.9).add_(weight.data, alpha=0.1)
        for kept in optimizer.state.values():
            kept["momentum_buffer"].mul_(0.9)
        own.update(model)
        if step.applied:
            shadow = own.shadow["0.weight"].flatten().tolist()
            averages = [*numbers(model, averaged, later, unseen), float(later.n_averaged)]
            log.append([*averages, *shadow, float(own.counts[0])])


def a_scaler(make: Any, log: list[Any]) -> None:
    """A GradScaler refuses to unscale twice: it must not remember the step that was not taken."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    for step in make(SAMPLES, BATCH, EPOCHS, model=model, optimizer=optimizer, scaler=scaler):
        with step:
            scaler.scale(loss_of(make, model, step)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        if step.applied:
            log.append([*numbers(model), scaler.get_scale()])


class Ahead(torch.optim.Optimizer):
    """Counts, and goes ahead, before the loss is evaluated there."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        parameters = self.param_groups[0]["params"]
        for p in parameters:
            self.state[p]["count"] = self.state[p].get("count", 0) + 1
            p.mul_(0.99)
        with torch.enable_grad():
            loss = closure()
        for p in parameters:
            p.sub_(p.grad * self.param_groups[0]["lr"] / self.state[p]["count"])
        return loss


def before_a_closure(make: Any, log: list[Any]) -> None:
    model = mlp()
    optimizer = Ahead(model.parameters())
    for step in make(SAMPLES, BATCH, EPOCHS, model=model, optimizer=optimizer):
        with step:

            def closure(step: Any = step) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(make, model, step)
                loss.backward()
                return loss

            optimizer.step(closure)
        if step.applied:
            log.append([*numbers(model), float(optimizer.state[next(model.parameters())]["count"])])


class Lately(nn.Module):
    """What it changes in itself it begins with after the steps in which everything is examined."""

    def __init__(self) -> None:
        super().__init__()
        self.slope: Any = nn.LeakyReLU(0.5)
        self.layers = nn.Sequential(nn.Linear(4, 4), self.slope, nn.Linear(4, 1)).double()
        self.calls: Any = None
        self.log: Any = None

    def forward(self, x: Tensor, number: int) -> Tensor:
        if number >= LAST:
            self.slope.negative_slope *= 0.8
            self.calls = [] if self.calls is None else self.calls
            self.calls.append(number)
            self.log = {"calls": [0.0]} if self.log is None else self.log
            self.log["calls"][0] += 1
        scale = 1.0 + (len(self.calls) + self.log["calls"][0] if self.calls else 0.0)
        out: Tensor = self.layers(x) * scale
        return out


def what_begins_to_change_late(make: Any, log: list[Any]) -> None:
    torch.manual_seed(0)
    model = Lately()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    for step in make(SAMPLES, BATCH, EPOCHS, model=model, optimizer=optimizer):
        with step:
            loss_of(make, functools.partial(model, number=step.number), step).backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            log.append([*numbers(model), model.slope.negative_slope])


PROGRAMS = (
    what_begins_to_change_late,
    before_a_closure,
    values_and_rates,
    weights_that_move_by_themselves,
    attributes_of_modules,
    after_the_block,
    a_scaler,
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.__name__)
def test_it_is_changed_once_though_a_worker_is_lost(program: Run) -> None:
    run = functools.partial(program, Swell)
    expected = plainly(program)
    with workers(_follow, *[[run]] * 3) as (survivor, lost, newcomer):
        with formed(1, [survivor, lost]):
            lost.process.process.join()  # it kills itself
            survivor.send(Abort(1))
            stopped = survivor.until(Stopped)
            assert (stopped.step, stopped.clean) == (LAST, True)
        with formed(2, [newcomer, survivor]):
            newcomer.until(Done)
            newcomer.send(Exit())
            survivor.send(Exit())
        outcomes = [survivor.process.result(), newcomer.process.result()]
    for outcome, first in zip(outcomes, (0, LAST), strict=True):
        assert outcome.error == ""
        require_same(outcome.log, expected[first:], first + 1)


def with_a_collective_of_its_own(make: Any, log: list[Any]) -> None:
    """After the update: who is lost in it leaves the others with a step that is half taken."""
    import horovod.torch as hvd

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in make(SAMPLES, BATCH, EPOCHS, model=model, optimizer=optimizer):
        with step:
            loss_of(None, model, step).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step.number == LAST + 1 and step.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if step.size > 1:
                hvd.allreduce(torch.ones(1), name="accuracy")


def test_what_cannot_be_put_back_is_nobodys_to_go_on_with() -> None:
    run = functools.partial(with_a_collective_of_its_own, Swell)
    with workers(_follow, [run], [run]) as (survivor, lost):
        with formed(1, [survivor, lost]):
            lost.process.process.join()  # it kills itself
            stopped = survivor.until(Stopped)
            assert (stopped.step, stopped.clean) == (LAST, False)
        with Meeting(world_of(1, generation=2)) as meeting:
            form(meeting, [survivor])
            error = survivor.process.result().error
    assert "a worker was lost in step 5 when all others had changed model.0.weight" in error
    assert "there is no checkpoint to go back to" in error


def test_alone_too_what_follows_a_block_is_put_back_and_not_the_block() -> None:
    state = State(model=nn.Linear(1, 1), count=0)
    sums = Sums(state, 0, lambda: None)
    sums.enter(0, 1)
    sums.grant()
    state.count = 1
    sums.left()
    state.count = 2
    sums.undo()
    assert state.count == 1
    sums.close()
