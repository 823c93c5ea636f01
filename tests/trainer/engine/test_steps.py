"""A loop of the user's own: what it sees, alone and when workers come and go."""

from __future__ import annotations

import functools
import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import nn

from tests.trainer.engine.loops import trained
from tests.trainer.ranks import alone, formed, workers
from trainer.protocol.messages import Done, Stopped

SAMPLES, BATCH, EPOCHS = 22, 4, 2
STEPS = EPOCHS * -(-SAMPLES // BATCH)
X = torch.linspace(-1, 1, SAMPLES, dtype=torch.float64).unsqueeze(1)


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return model, torch.optim.Adam(model.parameters(), lr=0.05)


def own_loop(
    micro: int | None = None, clip: bool = False, zero: str = "after", stop_after: int = 0
) -> tuple[list[float], list[int], int]:
    """Returns the loss of each step, the epochs that ended, and how many steps were given."""
    from trainer import elastic

    model, optimizer = parts()
    state = elastic.State(model=model, optimizer=optimizer, given=0)
    losses: list[float] = []
    ended: list[int] = []
    for step in elastic.steps(state, elastic.batches(X, BATCH), epochs=EPOCHS):
        state.given += 1
        with step:
            if zero == "before":
                optimizer.zero_grad()
            for part in step.split(micro):
                loss = (model(X[part]) - X[part].sin()).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
            if zero == "after":
                optimizer.zero_grad()
        losses.append(step.metrics["loss"])
        if step.epoch_done:
            ended.append(step.epoch)
            elastic.report(loss=losses[-1])
        if step.number == stop_after:
            elastic.stop()
    return losses, ended, state.given


def by_hand(clip: bool = False) -> list[float]:
    """The same without Swell."""
    from trainer.engine.data import Order

    model, optimizer = parts()
    order = Order(SAMPLES, BATCH, 0)
    losses = []
    for number in range(STEPS):
        start, stop = order.bounds(number)
        x = X[order.permutation(order.epoch_of(number))[start:stop]]
        optimizer.zero_grad()
        loss = (model(x) - x.sin()).square().mean()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("micro, zero", [(None, "after"), (None, "before"), (3, "never")])
def test_alone_it_trains_as_a_loop_without_swell_does(micro: int | None, zero: str) -> None:
    losses, ended, _ = alone(own_loop, micro, False, zero)
    assert losses == pytest.approx(alone(by_hand), rel=1e-9)
    assert ended == [0, 1]


def test_gradients_can_be_clipped_when_backward_returns() -> None:
    assert alone(own_loop, 3, True)[0] == pytest.approx(alone(by_hand, True), rel=1e-9)


def test_a_loop_can_end_early() -> None:
    losses, ended, _ = alone(own_loop, None, False, "after", 7)
    assert (len(losses), ended) == (7, [0])


def stops(who: str, log: list[Any]) -> None:
    """A loop that ``who`` ends after step 3, in the block or after it."""
    from trainer import elastic

    model, optimizer = parts()
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(X, BATCH), epochs=EPOCHS):
        with step:
            model(X[step.indices]).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if who == "in the block" and step.number == 3:
                elastic.stop()
        log.append((step.number, step.applied))
        if step.number == 3 and who in ("all", f"rank {step.rank}"):
            elastic.stop()
    log.append("after the loop")


@pytest.mark.parametrize("who", ["all", "rank 0", "rank 1", "in the block"])
def test_one_worker_that_ends_the_loop_ends_it_for_all(who: str) -> None:
    first, second = trained(2, functools.partial(stops, who))
    taken = [(1, True), (2, True), (3, True)]
    assert not first.error + second.error
    assert [one for one in first.log if one != (4, False)] == [*taken, "after the loop"]
    assert [one for one in second.log if one != (4, False)] == taken


def test_alone_a_world_that_cannot_be_formed_is_an_error() -> None:
    assert alone(misuse, "no world") == "RuntimeError: training cannot go on: no route"


def without_metrics() -> int:
    from trainer import elastic

    model, optimizer = parts()
    state = elastic.State(model=model, optimizer=optimizer)
    taken = 0
    for step in elastic.steps(state, elastic.batches(X, BATCH), epochs=EPOCHS, metrics=()):
        with step:
            model(X[step.indices]).square().sum().backward()
            optimizer.step()
        taken += 1
    return taken


def sums_of(added: tuple[str, ...]) -> dict[str, float]:
    from trainer import elastic

    model, optimizer = parts()
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(X, BATCH), total=1, metrics=("loss", "zero")):
        with step:
            step.add(**dict.fromkeys(added, 0.0))
            model(X[step.indices]).square().sum().backward()
            optimizer.step()
    return step.metrics


def test_what_nobody_has_added_to_is_no_metric() -> None:
    assert alone(sums_of, ()) == {}
    assert alone(sums_of, ("zero",)) == {"zero": 0.0}


def test_a_loop_needs_no_metrics() -> None:
    assert alone(without_metrics) == STEPS


def no_route() -> None:
    raise HorovodInternalError("no route")


def misuse(what: str) -> str:
    from trainer import elastic

    model, optimizer = parts()
    state = elastic.State(model=model, optimizer=optimizer)
    try:
        if what == "report":
            elastic.report(loss=1.0)
        if what == "no world":
            wires: Any = importlib.import_module("trainer.engine.wires")
            wires.horovod_init = no_route
        if what == "both":
            elastic.steps(state, elastic.batches(X, BATCH), epochs=1, total=3)
        if what == "no batches":
            elastic.steps(state, epochs=1)
        for step in elastic.steps(state, elastic.batches(X, BATCH), epochs=1):
            if what == "no with":
                continue
            with step:
                if what == "unknown":
                    step.add(lost=1.0)
                model(X[step.indices]).square().sum().backward()
                if what == "late":
                    step.add(loss=1.0)
                if what == "twice":
                    model(X[step.indices]).square().sum().backward()
                if what == "raise":
                    raise ZeroDivisionError("the user's")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    "what, error",
    [
        ("report", "RuntimeError: call this inside or after a loop over elastic.steps()"),
        ("both", "ValueError: give steps() either epochs= or total="),
        ("no batches", "ValueError: epochs= needs batches=; without a data set give total="),
        ("no with", "RuntimeError: step 1 was not taken: write the loop's body as `with step: …`"),
        ("unknown", "ValueError: 'lost' is not one of the loop's metrics ('loss',); write"),
        ("late", "RuntimeError: add() came too late"),
        ("twice", "Mistake: backward() was called again after this step's gradients"),
        ("raise", "ZeroDivisionError: the user's"),
    ],
)
def test_a_mistake_is_told_at_once(what: str, error: str) -> None:
    assert alone(misuse, what).startswith(error)


def followed(channel: Any, die_in: int) -> tuple[list[float], int]:
    """A loop in a worker; it is killed in the middle of its step ``die_in``."""
    from trainer import elastic
    from trainer.protocol.channel import AgentChannel

    AgentChannel._inherited = channel
    model, optimizer = parts()
    state = elastic.State(model=model, optimizer=optimizer)
    losses, tries = [], 0
    try:
        for step in elastic.steps(state, elastic.batches(X, BATCH), epochs=EPOCHS):
            tries += 1
            with step:
                x = X[step.indices]
                loss = (model(x) - x.sin()).square().sum() / step.batch_size
                step.add(loss=loss)
                if step.number == die_in:
                    os.kill(os.getpid(), signal.SIGKILL)
                loss.backward()
                optimizer.step()
            if step.applied:
                losses.append(step.metrics["loss"])
        loop = elastic.running()
        assert loop is not None and loop.complete
        loop.done()
    except SystemExit as ending:
        assert ending.code == 0
    return losses, tries


@pytest.mark.parametrize("victim", [0, 1])
def test_a_step_whose_worker_was_lost_is_given_again(victim: int) -> None:
    plans = [[6 if rank == victim else 0] for rank in range(2)]
    with workers(followed, *plans) as two:
        survivor = two[1 - victim]
        with formed(1, two):
            stopped = survivor.until(Stopped)
            assert (stopped.step, stopped.clean) == (5, True)
        with formed(2, [survivor]) as (started,):
            assert started.step == 5
            survivor.until(Done)
        losses, tries = survivor.exit()
    assert losses == pytest.approx(alone(by_hand), rel=1e-9)
    assert tries == STEPS + 1


class Counting(nn.Module):
    """Each forward pass adds to a buffer, an attribute and batch statistics."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(1, dtype=torch.float64)
        self.last = nn.Linear(1, 1, dtype=torch.float64)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        self.calls += 1
        out: torch.Tensor = self.last(self.norm(x)) * (1 + self.calls / 100) + self.seen
        return out


def counted(channel: Any, die_in: int) -> tuple[list[float], int]:
    """A loop over such a model; its worker is killed after the forward pass of ``die_in``."""
    from trainer import elastic
    from trainer.protocol.channel import AgentChannel

    AgentChannel._inherited = channel
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = elastic.State(model=model, optimizer=optimizer)
    losses = []
    try:
        for step in elastic.steps(state, elastic.batches(16, 8), epochs=4):
            with step:
                loss = model(X[step.indices]).square().sum() / step.batch_size
                if step.number == die_in:
                    os.kill(os.getpid(), signal.SIGKILL)
                step.add(loss=loss)
                loss.backward()
                optimizer.step()
            if step.applied:
                losses.append(step.metrics["loss"])
        loop = elastic.running()
        assert loop is not None
        loop.done()
    except SystemExit:
        pass
    mean = model.norm.running_mean
    assert mean is not None
    return [*losses, float(model.seen), *mean.tolist()], model.calls


def test_what_a_forward_pass_changed_is_taken_back_with_its_step() -> None:
    with workers(counted, [0], [0]) as (one, other), formed(1, [one, other]):
        one.until(Done)
        expected = one.exit()
    with workers(counted, [0], [0], [5]) as (one, other, lost):
        with formed(1, [one, other, lost]):
            assert [member.until(Stopped).step for member in (one, other)] == [4, 4]
        with formed(2, [one, other]):
            one.until(Done)
        found = [member.exit() for member in (one, other)]
    for numbers, calls in found:
        assert calls == expected[1] == 8
        assert numbers[8] == expected[0][8] == 8.0
    assert found[0][0] == found[1][0]


def test_after_the_loop_there_is_rank_0_alone() -> None:
    with workers(followed, [0], [0]) as two:
        with formed(1, two):
            done = two[0].until(Done)
            assert (done.rank, done.step) == (0, STEPS)
        outcomes = [worker.exit() for worker in two]
    assert [one[1] for one in outcomes] == [STEPS, STEPS]


def unequal(channel: Any, slow: bool) -> list[int]:
    """A loop of one fast worker and one that takes ten times as long for a sample."""
    import time

    from trainer.engine.data import Order
    from trainer.engine.state import State
    from trainer.engine.steps import Steps
    from trainer.protocol.session import Session

    model, optimizer = parts()
    state = State(model=model, optimizer=optimizer)
    session = Session(balance="speed")
    taken = []
    loop = Steps(state, Order(2400, 24, 0), 40, channel, session, ("loss",), 0)
    for step in loop:
        with step:
            time.sleep(len(step.indices) * (0.01 if slow else 0.001))
            model(X[step.indices % SAMPLES]).square().sum().backward()
            optimizer.step()
        taken.append(len(step.indices))
    if loop.complete:
        loop.done()
    return taken


def test_shares_follow_the_speed_and_still_sum_to_the_global_batch() -> None:
    with workers(unequal, [False], [True]) as two:
        with formed(1, two):
            two[0].until(Done)
        fast, slow = two[0].exit(), two[1].exit()
    assert [one + other for one, other in zip(fast, slow, strict=True)] == [24] * 40
    assert fast[:10] == [12] * 10, "nothing is known yet"
    assert fast[-1] > 2 * slow[-1], "by speed it would be ten to one"


def saved_beside_the_block(folder: str) -> tuple[int, int, float]:
    """What the checkpoint of step 4 has of what the loop does after its block."""
    from trainer.checkpoints.restore import Alone, load_newest
    from trainer.engine.data import Order
    from trainer.engine.state import State
    from trainer.engine.steps import Steps
    from trainer.protocol.channel import LoneChannel
    from trainer.protocol.session import CheckpointSettings, Session

    model, _ = parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    state = State(model=model, optimizer=optimizer, schedule=schedule, counted=0)
    session = Session(folder, checkpoint=CheckpointSettings(every=0.0, every_steps=4))
    loop = Steps(state, Order(SAMPLES, BATCH, 0), 4, LoneChannel(), session, (), 0)
    for step in loop:
        with step:
            model(X[step.indices]).square().sum().mul(1e-6).backward()
            optimizer.step()
        if step.applied:
            schedule.step()
            state.counted += 1
    loop.done()
    run_dir = session.run_dir
    assert run_dir is not None
    newest = load_newest([run_dir], lambda *_, **__: None, Alone(), torch.device("cpu"))
    assert newest is not None
    tree, number = newest
    rate = tree["parts"]["optimizer"]["param_groups"][0]["lr"]
    return number, tree["values"]["counted"], rate


def test_a_checkpoint_has_what_the_loop_does_after_its_block(tmp_path: Path) -> None:
    assert alone(saved_beside_the_block, str(tmp_path)) == (4, 4, 0.5**4)
