"""A loss or gradients that are not finite: one decision on all ranks, before anything changes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import trained
from tests.trainer.ranks import alone, formed, workers
from trainer.checkpoints.manifest import committed_steps
from trainer.checkpoints.rollbacks import Rollbacks
from trainer.engine.nonfinite import LEAST_SCALE, policy_of, what_is_not_finite
from trainer.engine.state import State
from trainer.protocol.messages import Done, Event, Exit, Form, Stopped
from trainer.protocol.session import CheckpointSettings, Session
from trainer.rundir.directory import RunDirectory

# --- what is found -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metrics, norm, scale, what",
    [
        ({"loss": 1.0}, 2.0, None, ""),
        ({}, 0.0, None, ""),
        ({"loss": math.nan}, 2.0, None, "the loss is nan"),
        ({"loss": -math.inf}, math.nan, 8.0, "the loss is -inf"),
        ({"loss": 1.0}, math.nan, None, "the norm of the gradients is nan"),
        ({"loss": 1.0}, math.inf, 8.0, ""),
        ({"loss": 1.0}, math.inf, LEAST_SCALE / 2, "the norm of the gradients is inf"),
        ({"perplexity": math.inf}, 1.0, None, ""),
    ],
)
def test_what_is_not_finite(
    metrics: dict[str, float], norm: float, scale: float | None, what: str
) -> None:
    assert what_is_not_finite(metrics, norm, lambda: scale) == what


def test_the_job_counts_more_than_the_program() -> None:
    assert policy_of("", None) == "stop"
    assert policy_of("", "skip") == "skip"
    assert policy_of("rollback", "skip") == "rollback"
    with pytest.raises(ValueError, match="on_nonfinite is 'ignore'; write one of stop, skip, roll"):
        policy_of("", "ignore")


# --- in a world ----------------------------------------------------------------------------

SAMPLES, BATCH = 16, 8


def loop(log: list[Any], how: str, policy: str, steps: tuple[int, ...] = (2,)) -> None:
    """Trains; in ``steps`` the loss or a gradient of rank 0's part is spoiled in some way."""
    from trainer import elastic

    torch.manual_seed(0)
    x = torch.randn(SAMPLES, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    state = elastic.State(model=model, optimizer=optimizer, scheduler=scheduler)
    order = elastic.batches(SAMPLES, BATCH)
    for step in elastic.steps(state, order, epochs=3, on_nonfinite=policy or None):
        spoiled = step.number in steps and step.rank == 0
        with step:
            for part in step.split(None):
                batch = x[part] * (math.nan if spoiled and how == "input" else 1.0)
                loss = model(batch).square().sum() / step.batch_size
                if spoiled and how == "loss":
                    loss = loss + math.inf
                if spoiled and how == "gradient":
                    loss = loss + (loss - loss.detach()).clamp_min(0).sqrt()  # 0 ** -0.5
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        everything = [*model.state_dict().values()]
        log.append(
            (step.number, step.left_out, step.epoch_done, [one.tolist() for one in everything])
        )


class Spoiled:
    """``loop`` with its arguments, so that it travels to the ranks."""

    def __init__(self, how: str, policy: str, steps: tuple[int, ...] = (2,)) -> None:
        self.how, self.policy, self.steps = how, policy, steps

    def __call__(self, log: list[Any]) -> None:
        loop(log, self.how, self.policy, self.steps)


@pytest.mark.parametrize(
    "how, what",
    [
        ("loss", "the loss is inf"),
        ("gradient", "the norm of the gradients is nan"),
        ("input", "the loss is nan"),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_by_default_the_run_ends_before_anything_changes(size: int, how: str, what: str) -> None:
    outcomes = trained(size, Spoiled(how, ""))
    (error,) = {one.error for one in outcomes}
    assert error.startswith(f"Mistake: step 2: {what}, on rank 0 (samples ")
    assert "; on_nonfinite is stop; there is no good checkpoint; begin again with" in error
    assert [len(one.log) for one in outcomes] == [1] * size, "step 1 alone was taken"


@pytest.mark.parametrize("size, how", [(1, "input"), (2, "input"), (3, "gradient")])
def test_a_step_that_is_skipped_has_changed_nothing(size: int, how: str) -> None:
    outcomes = trained(size, Spoiled(how, "skip", (2, 4)))
    assert {one.error for one in outcomes} == {""}
    for log in (one.log for one in outcomes):
        assert [(number, left_out, done) for number, left_out, done, _ in log] == [
            (1, False, False),
            (2, True, True),  # a program evaluates after this epoch, too
            (3, False, False),
            (4, True, True),
            (5, False, False),
            (6, False, True),
        ]
        values = [one for *_, one in log]
        assert values[1] == values[0] and values[3] == values[2], "batch statistics, too"
        assert values[2] != values[1]
        assert all(math.isfinite(x) for x in torch.tensor(values[-1][0]).flatten())
    assert outcomes[0].log == outcomes[-1].log


def test_a_run_of_nan_does_not_succeed_by_skipping() -> None:
    (outcome,) = trained(1, Spoiled("input", "skip", tuple(range(3, 100))))
    assert outcome.error == "", "four steps in a row may be bad luck"
    (outcome,) = trained(1, Endless())
    assert "10 steps in a row have been left out already: it is not the samples" in outcome.error
    assert len(outcome.log) == 11


class Endless:
    """A loop in which every step from the second one on is spoiled."""

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        state = elastic.State(model=model, optimizer=optimizer)
        for step in elastic.steps(state, total=100, on_nonfinite="skip"):
            with step:
                loss = model(torch.ones(1)).sum() * (math.nan if step.number > 1 else 1.0)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            log.append(step.number)


class Hopeless:
    """A GradScaler whose gradients are infinite at any scale; and a last step that overflows."""

    def __init__(self, last_only: bool) -> None:
        self._last_only = last_only

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=not self._last_only)
        state = elastic.State(model=model, optimizer=optimizer, scaler=scaler)
        for step in elastic.steps(state, total=6 if self._last_only else 100):
            with step:
                y = model(torch.ones(1)).sum()
                if not self._last_only:
                    y = y + (y - y.detach()).clamp_min(0).sqrt()
                elif step.number == 6:
                    optimizer.param_groups[0]["lr"] = math.inf
                scaler.scale(y).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            log.append(step.number)


def test_a_scaler_may_skip_but_not_for_ever() -> None:
    (outcome,) = trained(1, Hopeless(last_only=False))
    assert outcome.error.startswith("Mistake: step 42: the norm of the gradients is inf")


def test_an_end_state_that_is_no_number_is_no_success() -> None:
    (outcome,) = trained(1, Hopeless(last_only=True))
    assert outcome.error.startswith(
        "Mistake: step 6: model.weight is not finite at the end of training"
    )


class Counted:
    """A mean over infinitely many things, which would be 0."""

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        model = nn.Linear(1, 1)
        state = elastic.State(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in elastic.steps(state, total=2):
            with step:
                step.mean_over(math.inf)
                model(torch.ones(1)).sum().backward()


def test_a_mean_over_infinitely_many_is_refused() -> None:
    (outcome,) = trained(1, Counted())
    assert "the loss is a mean over inf things" in outcome.error


class Nothing:
    """Samples of which those of the first step have nothing to be learned."""

    def __init__(self, policy: str) -> None:
        self.policy = policy

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        state = elastic.State(model=model, optimizer=optimizer)
        before = model.weight.item()
        batches = elastic.batches(8, 4)
        for step in elastic.steps(state, batches, total=2, on_nonfinite=self.policy):
            with step:
                for part in step.split(None):
                    count = len(part) * (step.number > 1)
                    loss = model(torch.ones(len(part), 1)).sum() * (step.number > 1)
                    step.mean_over(count)
                    step.add(loss=loss)
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            log.append((step.number, step.left_out, model.weight.item() != before))


@pytest.mark.parametrize("size", [1, 2])
def test_a_mean_over_nothing_is_not_finite(size: int) -> None:
    for outcome in trained(size, Nothing("stop")):
        assert outcome.log == []
        assert outcome.error.startswith("Mistake: step 1: the loss is a mean over nothing: in no")
    for outcome in trained(size, Nothing("skip")):
        assert outcome.error == "" and outcome.log == [(1, True, False), (2, False, True)]


def test_statistics_that_are_no_numbers_are_no_success_and_a_mask_may_be_infinite() -> None:
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(norm, nn.Linear(2, 1))
    model.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
    state = State(model=model)
    assert state.not_finite() == ""
    assert norm.running_mean is not None
    norm.running_mean[1] = math.nan
    assert state.not_finite() == "model.0.running_mean"
    norm.reset_running_stats()
    assert norm.running_var is not None
    norm.running_var[0] = math.inf  # of large numbers, which it has normalised to 0
    assert state.not_finite() == "model.0.running_var"


def test_what_an_optimizer_has_overflowed_is_no_success() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    state = State(model=model, optimizer=optimizer)
    for gradient, found in ((1.0, ""), (1e25, "optimizer's exp_avg_sq of model.weight")):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        assert all(one.isfinite().all() for one in model.parameters())
        assert state.not_finite() == found


# --- rollback ------------------------------------------------------------------------------


def going_back(
    channel: Any, url: str, writer: str, bad: tuple[int, ...], policy: str, dies_after: int = 99
) -> list[Any]:
    """Trains with a checkpoint after each second step; the samples of the steps ``bad`` are NaN."""
    from trainer import elastic
    from trainer.protocol.channel import AgentChannel

    settings = CheckpointSettings(every=0.0, every_steps=2, keep=3)
    session = Session(url, writer, checkpoint=settings, audit=True, on_nonfinite=policy)
    os.environ.update(session.to_env())
    if isinstance(channel, AgentChannel):
        AgentChannel._inherited = channel
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    x = torch.randn(40, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = elastic.State(model=model, optimizer=optimizer, seen=[])
    log: list[Any] = []
    try:
        for step in elastic.steps(state, elastic.batches(40, 4), epochs=1):
            with step:
                for part in step.split(None):
                    spoiled = math.nan if step.number in bad else 1.0
                    loss = model(x[part]).square().sum() * spoiled / step.batch_size
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                state.seen = [*state.seen, step.number]
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]
            log.append((step.number, step.left_out))
            if step.number == dies_after:
                raise SystemExit
        elastic.running().done()  # type: ignore[union-attr]
    except SystemExit:
        pass
    except Exception as error:
        log.append(str(error))
    return [log, state.seen, model.weight.tolist()]


def plainly(*left_out: int) -> list[Any]:
    """The weights of the same loop by plain PyTorch, without some of the steps."""
    from trainer.engine.data import Order

    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    x = torch.randn(40, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = Order(40, 4, 0)
    for step in range(10):
        start, stop = order.bounds(step)
        if step + 1 not in left_out:
            loss = model(x[order.permutation(0)[start:stop]]).square().sum() / 4
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    weights: list[Any] = model.weight.tolist()
    return weights


def test_a_world_goes_back_to_a_good_checkpoint_and_leaves_the_step_out(tmp_path: Path) -> None:
    """A newcomer that has never seen the step leaves it out as well."""
    url = str(tmp_path)
    plans = [(url, f"w-{rank}", (7,), "rollback") for rank in range(3)]
    with workers(going_back, *plans) as everybody:
        first, newcomer, third = everybody
        with formed(1, [first, third]):
            left = [worker.until(Stopped) for worker in (first, third)]
            assert [(one.step, one.clean) for one in left] == [(6, False)] * 2
            assert [one.cause for one in left] == ["rollback"] * 2
            assert {one.failed for one in left} == {
                "step 7: the norm of the gradients is nan; back to the checkpoint of step 4"
            }
            assert committed_steps(RunDirectory(url)) == [2, 4], "6 may hold what led to it"
        with formed(2, [newcomer, first, third]) as started:
            assert [one.step for one in started] == [4, 4, 4]
            newcomer.until(Done)
        results = [worker.exit() for worker in everybody]
    for log, seen, weights in results:
        assert log[-4:] == [(7, True), (8, False), (9, False), (10, False)]
        assert seen == [1, 2, 3, 4, 5, 6, 8, 9, 10]
        assert torch.tensor(weights).allclose(torch.tensor(plainly(7)), rtol=1e-9)
    assert Rollbacks.of(RunDirectory(url)) == Rollbacks((7,), {4: 1})


class Worlds:
    """A channel of one world of one after another."""

    def __init__(self, count: int) -> None:
        self._orders: list[Any] = [Form(n, {}, ()) for n in range(1, count + 1)]
        self.told: list[Any] = []

    def next(self) -> Any:
        return self._orders.pop(0) if self._orders else Exit()

    def __getattr__(self, name: str) -> Any:
        if name == "collective":
            from contextlib import nullcontext

            return nullcontext
        return (lambda: ()) if name == "profiles" else (lambda *args: False)

    def send(self, message: Any) -> None:
        self.told.append(message)


def gone_back(
    url: str, bad: tuple[int, ...], policy: str, dies_after: int = 99
) -> tuple[list[Any], list[Any]]:
    from trainer import elastic

    channel = Worlds(20)
    vars(elastic)["current_channel"] = lambda: channel
    result = going_back(channel, url, "w", bad, policy, dies_after)
    events = [one.fields for one in channel.told if isinstance(one, Event)]
    return result, [one for one in events if "action" in one]


@pytest.mark.parametrize(
    "bad, to",
    [
        ((10,), [8]),  # the last one
        ((7, 8), [4, 4]),  # one after the other
        ((5, 9), [2, 6]),
    ],
)
def test_wherever_it_goes_back_the_end_is_that_without_those_steps(
    tmp_path: Path, bad: tuple[int, ...], to: list[int]
) -> None:
    (log, _, weights), events = alone(gone_back, str(tmp_path), bad, "rollback")
    assert [one["checkpoint"] for one in events] == to
    left_out = {number for number, was in log if was}
    assert left_out == {*bad} and log[-1][0] == 10
    assert torch.tensor(weights).allclose(torch.tensor(plainly(*bad)), rtol=1e-9)


@pytest.mark.parametrize("bad", [(1,), (10,), (1, 10), (1, 2, 3), (4, 5, 9, 10)])
def test_whichever_steps_are_skipped_the_end_is_that_without_them(
    tmp_path: Path, bad: tuple[int, ...]
) -> None:
    """The first one, the last one, several in a row; and the end is saved."""
    (_, seen, weights), events = alone(gone_back, str(tmp_path), bad, "skip")
    assert [(one["step"], one["action"]) for one in events] == [(step, "skip") for step in bad]
    assert seen == [step for step in range(1, 11) if step not in bad]
    assert torch.tensor(weights).allclose(torch.tensor(plainly(*bad)), rtol=1e-9)
    assert committed_steps(RunDirectory(str(tmp_path)))[-1] == 10


@pytest.mark.parametrize("dies_after", [6, 7])
def test_who_begins_with_a_checkpoint_knows_which_ones_are_good(
    tmp_path: Path, dies_after: int
) -> None:
    """The first step of a process is bad, and the checkpoint that it began with may be why."""
    (_, seen, _), _ = alone(gone_back, str(tmp_path), (), "rollback", dies_after)
    assert seen[-1] == dies_after
    (_, _, weights), events = alone(gone_back, str(tmp_path), (7,), "rollback")
    assert [(one["step"], one["checkpoint"]) for one in events] == [(7, 4)]
    assert torch.tensor(weights).allclose(torch.tensor(plainly(7)), rtol=1e-9)


def test_who_begins_with_a_checkpoint_has_skipped_what_is_skipped_in_it(tmp_path: Path) -> None:
    bad = tuple(range(2, 11))
    (log, _, _), _ = alone(gone_back, str(tmp_path), bad, "skip", 7)  # step 6 is saved by then
    assert [was for _, was in log] == [False] + [True] * 6
    (_, seen, _), events = alone(gone_back, str(tmp_path), bad, "skip")
    assert (seen, [one["step"] for one in events]) == ([1], [7, 8, 9, 10])


def test_it_does_not_go_back_for_ever(tmp_path: Path) -> None:
    """Whatever follows step 6 is no number: not the samples are to blame."""
    (log, _, _), events = alone(gone_back, str(tmp_path), tuple(range(7, 11)), "rollback")
    assert [one["checkpoint"] for one in events] == [4, 4, 4, None]
    assert [one["step"] for one in events] == [7, 8, 9, 10]
    assert "it has gone back to the checkpoint of step 4 3 times already" in log[-1]
    assert f"the newest good checkpoint is {tmp_path}/checkpoints/step-000000004" in log[-1]


def test_without_a_good_checkpoint_there_is_none_to_go_back_to(tmp_path: Path) -> None:
    (log, _, _), events = alone(gone_back, str(tmp_path), (2,), "rollback")
    assert "there is no checkpoint that is known to be good" in log[-1]
    assert [one["action"] for one in events] == ["stop"]


def test_the_last_good_checkpoint_is_there_and_named(tmp_path: Path) -> None:
    (log, _, _), events = alone(gone_back, str(tmp_path), (7,), "stop")
    assert f"the newest good checkpoint is {tmp_path}/checkpoints/step-000000004;" in log[-1]
    assert (events[0]["step"], events[0]["rank"], len(events[0]["ids"])) == (7, 0, 4)
    assert committed_steps(RunDirectory(str(tmp_path))) == [2, 4, 6]
