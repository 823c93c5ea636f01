"""The training loop: the same curve alone, in parts, interrupted, and in any world."""

from __future__ import annotations

import os
import signal
from collections import namedtuple
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import TensorDataset

from tests.trainer.ranks import Worker, alone, formed, workers
from trainer import Task
from trainer.protocol.messages import (
    Done,
    Event,
    Exit,
    Form,
    FromWorker,
    Message,
    Profile,
    Ready,
    Save,
    Saved,
    Started,
    Steps,
    Stopped,
    ToWorker,
)
from trainer.protocol.session import CheckpointSettings, Session

SAMPLES, BATCH, EPOCHS = 23, 4, 3
STEPS = EPOCHS * -(-SAMPLES // BATCH)
Curve = dict[int, float]
Sample = namedtuple("Sample", "x y")
_Last = TypeVar("_Last", bound=Message)


class Line(Task):
    """A small regression in float64, where every difference shows."""

    epochs = EPOCHS
    global_batch = BATCH

    def __init__(self, micro_batch: int | None = None, dropout: float = 0.0) -> None:
        self.micro_batch = micro_batch
        self._dropout = dropout

    def dataset(self) -> TensorDataset:
        x = torch.linspace(-1, 1, SAMPLES, dtype=torch.float64).unsqueeze(1)
        return TensorDataset(x, x.sin())

    def model(self) -> nn.Module:
        layers = [nn.Linear(1, 16), nn.Dropout(self._dropout), nn.Tanh(), nn.Linear(16, 1)]
        return nn.Sequential(*layers).to(torch.float64)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.05)

    def scheduler(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler | None:
        assert total_steps == STEPS
        return StepLR(optimizer, step_size=5, gamma=0.5)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(model(x), y)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        x, y = self.dataset().tensors
        return {"error": nn.functional.mse_loss(model(x), y).item()}


class Named(Line):
    """Its samples are named tuples, which default_collate keeps."""

    def batch(self, dataset: Any, indices: Tensor) -> Sample:
        return Sample(*super().batch(dataset, indices))


class Script:
    """A channel that asks for a pause after some steps, and then for a checkpoint."""

    def __init__(self, pause_after: int) -> None:
        self._orders: list[ToWorker] = [Form(1, {}, ()), Save()]
        self._pause_after = pause_after
        self.told: list[FromWorker] = []
        self.steps = 0

    def next(self) -> ToWorker:
        return self._orders.pop(0) if self._orders else Exit()

    def pause_requested(self) -> bool:
        self.steps += 1
        return self.steps == self._pause_after

    def collective(self) -> AbstractContextManager[None]:
        return nullcontext()

    def aborted(self, generation: int) -> bool:
        return False

    def profiles(self) -> tuple[Profile, ...]:
        return ()

    def on_abort(self, callback: Any) -> None:
        return None

    def send(self, message: FromWorker) -> None:
        self.told.append(message)


def curve(told: Sequence[Message]) -> Curve:
    """The loss of every step that was told of."""
    losses: Curve = {}
    for message in told:
        if isinstance(message, Steps):
            for number, loss in enumerate(message.metrics["loss"], message.first):
                assert losses.setdefault(number, loss) == loss
    return losses


def trained(
    task: Task, run_dir: str | None = None, pause_after: int = 0
) -> tuple[list[FromWorker], dict[str, float]]:
    """Trains in a world of one. Returns what was told and the final metrics."""
    from trainer import fit

    session = Session(run_dir_url=run_dir, checkpoint=CheckpointSettings(every=1e9))
    os.environ.update(session.to_env())
    channel = Script(pause_after)
    return channel.told, fit(task, channel)


@pytest.fixture(scope="module")
def undisturbed() -> Curve:
    return curve(alone(trained, Line())[0])


def same(one: Curve, other: Curve) -> bool:
    return one == pytest.approx(other, rel=1e-9)


# --- alone --------------------------------------------------------------------------------


def test_every_step_has_a_loss_and_it_falls(undisturbed: Curve) -> None:
    assert sorted(undisturbed) == list(range(1, STEPS + 1))
    assert undisturbed[STEPS] < undisturbed[1]


def test_a_run_tells_how_it_goes_and_returns_its_metrics() -> None:
    told, metrics = alone(trained, Line())
    assert told[0] == Ready() and isinstance(told[1], Started)
    events = [one for one in told if isinstance(one, Event)]
    evaluated = [one.fields for one in events if one.name == "evaluated"]
    assert [one["step"] for one in evaluated] == [STEPS // EPOCHS * n for n in range(1, EPOCHS + 1)]
    assert evaluated[-1]["metrics"] == metrics
    assert [one for one in told if isinstance(one, Done)] == [Done(1, 0, STEPS, metrics)]


class Skipping(Line):
    """The last step of its first epoch has a loss that is no number."""

    on_nonfinite = "skip"

    def loss(self, model: nn.Module, batch: Any, step: Any = None) -> Tensor:
        return super().loss(model, batch) * (float("nan") if step.number == 6 else 1.0)


def test_a_task_says_that_a_step_is_skipped_and_evaluates_all_the_same() -> None:
    told, _ = alone(trained, Skipping())
    losses = [loss for one in told if isinstance(one, Steps) for loss in one.metrics["loss"]]
    assert [number for number, loss in enumerate(losses, 1) if loss != loss] == [6]
    events = [(one.name, one.fields.get("step")) for one in told if isinstance(one, Event)]
    found = [one for one in events if one[0] in ("nonfinite", "evaluated")]
    assert found == [("nonfinite", 6), ("evaluated", 6), ("evaluated", 12), ("evaluated", 18)]


def test_a_run_repeats_itself(undisturbed: Curve) -> None:
    assert curve(alone(trained, Line())[0]) == undisturbed


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
def test_micro_batches_give_the_same_curve(undisturbed: Curve, micro_batch: int) -> None:
    assert same(curve(alone(trained, Line(micro_batch))[0]), undisturbed)


def test_batches_may_be_named_tuples(undisturbed: Curve) -> None:
    assert curve(alone(trained, Named())[0]) == undisturbed


@pytest.mark.parametrize("pause_after", [1, 6, STEPS - 1])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(
    tmp_path: Path, dropout: float, pause_after: int
) -> None:
    task = Line(dropout=dropout)
    whole = curve(alone(trained, task)[0])
    first, _ = alone(trained, task, str(tmp_path), pause_after)
    stopped, *last = first[-3:]
    assert isinstance(stopped, Stopped) and Saved(pause_after) in last
    assert [one.name for one in last if isinstance(one, Event)] == ["checkpoint_committed"]
    rest, _ = alone(trained, task, str(tmp_path))
    (started,) = [one for one in rest if isinstance(one, Started)]
    assert started.step == pause_after
    assert {**curve(first), **curve(rest)} == whole
    assert min(curve(rest)) == pause_after + 1


def test_a_run_that_was_complete_is_done_again_at_once(tmp_path: Path) -> None:
    _, metrics = alone(trained, Line(), str(tmp_path))
    told, again = alone(trained, Line(), str(tmp_path))
    assert again == metrics
    assert curve(told) == {}


def test_digits_learns() -> None:
    assert alone(digits)["test_accuracy"] > 0.9


def digits() -> dict[str, float]:
    from trainer import fit
    from trainer.tasks.digits import Digits

    return fit(Digits(epochs=4, width=8, lr=0.1))


class Raising(Line):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        raise ZeroDivisionError("in the loss")


def raised_by(task: Task) -> str:
    try:
        trained(task)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class Summed(Line):
    """Its loss is a sum, which would count as much as its part of the batch."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(model(x), y, reduction="sum")


class Counting(Line):
    """Keeps count of its losses in a list, and makes the first ones smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[int] = []

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.counted.append(len(self.counted))
        return super().loss(model, batch) * min(1.0, len(self.counted) / 3)


def test_a_sum_is_no_loss() -> None:
    said = alone(raised_by, Summed())
    assert said.startswith("Mistake: loss() gives ")
    assert "for 2 of them and the other 2: it is no mean over samples" in said


def test_what_tries_a_loss_counts_for_nothing(undisturbed: Curve) -> None:
    counted = curve(alone(trained, Counting())[0])
    assert counted[1] == pytest.approx(undisturbed[1] / 3, rel=1e-12)


class Unfinished(Task):
    def dataset(self) -> TensorDataset:
        return TensorDataset(torch.zeros(1))


@pytest.mark.parametrize(
    "task, error",
    [
        (Raising(), "ZeroDivisionError: in the loss"),
        (Task(), "NotImplementedError: Task must define dataset()"),
        (Unfinished(), "NotImplementedError: Unfinished must define model()"),
    ],
    ids=["loss", "no dataset", "no model"],
)
def test_what_a_task_raises_is_raised(task: Task, error: str) -> None:
    assert alone(raised_by, task) == error


# --- in worlds that change ----------------------------------------------------------------


class Planned(Line):
    """Pauses its world after some steps, and kills its process during one."""

    def __init__(self, pause_after: set[int], die_in: int) -> None:
        super().__init__()
        self._pause_after = pause_after
        self._die_in = die_in
        self._schedule: LRScheduler | None = None

    def scheduler(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler | None:
        self._schedule = super().scheduler(optimizer, total_steps)
        return self._schedule

    @property
    def running(self) -> int:
        """The step that is running; the schedule travels with the state."""
        assert self._schedule is not None
        return int(self._schedule.last_epoch) + 1

    def pause_requested(self) -> bool:
        return self.running in self._pause_after

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if self.running == self._die_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


def planned(channel: Any, pause_after: set[int], die_in: int) -> dict[str, float]:
    from trainer import fit

    task = Planned(pause_after, die_in)
    channel.pause_requested = task.pause_requested
    metrics: dict[str, float] = fit(task, channel)
    return metrics


def heard(worker: Worker, last: type[_Last]) -> tuple[list[Message], _Last]:
    """Everything up to a message of this kind, and that message."""
    told = []
    while not isinstance(message := worker.receive(), last):
        told.append(message)
    return told, message


@pytest.mark.parametrize("victim", [0, 1, 2], ids="rank {}".format)
def test_the_curve_does_not_depend_on_who_comes_and_goes(undisturbed: Curve, victim: int) -> None:
    """Two train, a third joins, one is killed in the middle of a step, one is left alone."""
    pauses = {4, 14}
    plans = [[pauses, 9 if rank == victim else 0] for rank in range(3)]
    told: list[Message] = []

    def stopped(worker: Worker) -> Stopped:
        messages, last = heard(worker, Stopped)
        told.extend(messages)
        return last

    with workers(planned, *plans) as everybody:
        with formed(1, everybody[1:]) as started:
            assert [one.step for one in started] == [0, 0]
            for worker in everybody[1:]:
                left = stopped(worker)
                assert (left.step, left.failed) == (4, "")
        with formed(2, everybody) as started:
            assert [one.step for one in started] == [4, 4, 4]
            survivors = [one for rank, one in enumerate(everybody) if rank != victim]
            for worker in survivors:
                left = stopped(worker)
                assert (left.step, left.clean) == (8, True)
                assert left.failed
        with formed(3, survivors) as started:
            assert [one.step for one in started] == [8, 8]
            assert [stopped(worker).step for worker in survivors] == [14, 14]
        with formed(4, survivors[1:]) as started:
            assert [one.step for one in started] == [14]
            told += heard(survivors[1], Done)[0]
        survivors[1].exit()
    assert same(curve(told), undisturbed)


class Few(Line):
    """Two samples to a step, and one in the last of an epoch."""

    global_batch = 2

    def scheduler(self, optimizer: torch.optim.Optimizer, total_steps: int) -> Any:
        return None


def few(channel: Any) -> dict[str, float]:
    from trainer import fit

    metrics: dict[str, float] = fit(Few(), channel)
    return metrics


def test_workers_without_a_sample_take_part() -> None:
    with workers(few, [], [], []) as three, formed(1, three):
        told, _ = heard(three[0], Done)
        metrics = [worker.exit() for worker in three]
    assert metrics[0] == metrics[1] == metrics[2]
    assert same(curve(told), curve(alone(trained, Few())[0]))
