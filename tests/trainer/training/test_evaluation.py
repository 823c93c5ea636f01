"""An evaluation comes to the same figures in every world, also through a loss in its middle."""

from __future__ import annotations

import functools
import math
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import Outcome, trained, travelled
from tests.trainer.training.test_recipe import Recipe
from trainer.engine.mistake import Mistake
from trainer.training.evaluation import due
from trainer.training.numbers import plain

HELD_OUT, PART = 23, 4


class Judged(Recipe):
    """``log`` has the metrics of each evaluation, by step, and how many samples came here."""

    eval_batch = PART

    def __init__(self, dies: int = -1, **changes: Any) -> None:
        super().__init__(**changes)
        self.log: list[Any] = []
        self.dies = dies

    def validation(self) -> TensorDataset:
        x = torch.randn(HELD_OUT, 4, generator=torch.Generator().manual_seed(2)).double()
        return TensorDataset(x, x.sum(1, keepdim=True) * 10)

    def evaluate_batch(self, model: nn.Module, batch: Any, step: Any) -> dict[str, Any]:
        if step.rank == self.dies and step.size == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        assert not model.training and not torch.is_grad_enabled()
        x, y = batch
        self.log.append(len(x))
        off = model(x) - y
        large = off.abs() > 1
        return {"error": off.square().mean(), "large": (off.abs()[large].sum(), large.sum())}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"weight": float(next(model.parameters()).sum())}

    def on_evaluate(self, metrics: dict[str, float], step: Any) -> None:
        self.log.append((step.number, metrics))


def fitted(make: Callable[[], Judged], log: list[Any]) -> None:
    from trainer import fit

    task = make()
    fit(task)
    log += task.log


def evaluations(outcome: Outcome) -> dict[int, dict[str, float]]:
    assert outcome.error == ""
    return dict(one for one in outcome.log if isinstance(one, tuple))


def plainly(model: nn.Module) -> dict[str, float]:
    """The parts one after another, added up."""
    x, y = Judged().validation().tensors
    parts = [(x[i : i + PART], y[i : i + PART]) for i in range(0, HELD_OUT, PART)]
    with torch.no_grad():
        off = [model(a) - b for a, b in parts]
    large = torch.cat([one[one.abs() > 1].abs() for one in off])
    return {
        "error": sum(float(one.square().mean() * len(one)) for one in off) / HELD_OUT,
        "large": float(large.sum()) / len(large),
    }


def lone(log: list[Any]) -> None:
    """A world of one, and what plain computations come to in it."""
    from trainer import fit

    class Checked(Judged):
        def evaluate(self, model: nn.Module) -> dict[str, float]:
            self.log.append(("plain", plainly(model)))
            return super().evaluate(model)

    task = Checked()
    fit(task)
    log += task.log


@functools.cache
def expected() -> dict[int, dict[str, float]]:
    (outcome,) = trained(1, functools.partial(fitted, Judged))
    return evaluations(outcome)


def test_a_world_of_one_has_what_a_plain_computation_has() -> None:
    (outcome,) = trained(1, lone)
    assert outcome.error == ""
    told = [one for one in outcome.log if isinstance(one, tuple)]
    plain = [figures for name, figures in told if name == "plain"]
    found = [figures for name, figures in told if name != "plain"]
    assert len(found) == len(plain) == 3
    for figures, wanted in zip(found, plain, strict=True):
        assert {name: figures[name] for name in wanted} == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_all_ranks_of_any_world_have_the_same_figures(size: int) -> None:
    outcomes = trained(size, functools.partial(fitted, Judged))
    for outcome in outcomes:
        assert evaluations(outcome) == evaluations(outcomes[0])
        for number, figures in evaluations(outcome).items():
            assert figures == pytest.approx(expected()[number], rel=1e-9)
    computed = sum(one for outcome in outcomes for one in outcome.log if isinstance(one, int))
    assert computed == 3 * HELD_OUT, "each sample counts once"


class Still(Judged):
    """It does not learn, so figures that differ at all are the evaluation's fault."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.0)


def test_of_one_model_the_figures_are_the_same_to_the_bit() -> None:
    (outcome,) = trained(1, functools.partial(fitted, Still))
    for size in (2, 3):
        for other in trained(size, functools.partial(fitted, Still)):
            assert evaluations(other) == evaluations(outcome)


@pytest.mark.parametrize("victim", [0, 1, 2], ids="rank {}".format)
def test_it_is_repeated_when_a_worker_is_lost_in_its_middle(victim: int) -> None:
    """Two newcomers, who have nothing yet, take part in it."""
    left = [member for member in range(3) if member != victim]
    stages = [Stage((0, 1, 2)), Stage((left[0], 3, left[1], 4))]
    run = functools.partial(fitted, functools.partial(Judged, dies=victim))
    outcomes = travelled(stages, run, killed={victim})
    assert sorted(outcomes) == [*left, 3, 4]
    for outcome in outcomes.values():
        found = evaluations(outcome)
        assert sorted(found) == [3, 6, 9]
        for number, figures in found.items():
            assert figures == pytest.approx(expected()[number], rel=1e-9)


class Stopping(Judged):
    """Only rank 0 would stop, and none but it is asked."""

    eval_every = 2

    def should_stop(self, metrics: dict[str, float]) -> bool:
        self.log.append("asked")
        return len([one for one in self.log if isinstance(one, tuple)]) == 2


def test_one_rank_stops_all_after_an_evaluation() -> None:
    outcomes = trained(3, functools.partial(fitted, Stopping))
    for rank, outcome in enumerate(outcomes):
        assert sorted(evaluations(outcome)) == [2, 4]
        assert outcome.log.count("asked") == (2 if rank == 0 else 0)


def test_an_evaluation_is_due_once() -> None:
    assert [step for step in range(11) if due(step, 0, every=4, total=10)] == [4, 8, 10]
    assert not due(8, evaluated=8, every=4, total=10)
    assert not due(10, evaluated=10, every=4, total=10)


class Augmented(Still):
    """Random numbers in an evaluation are those of its part."""

    def evaluation_batch(self, dataset: Any, indices: Tensor) -> Any:
        x, y = dataset[indices]
        return x + torch.randn(x.shape, dtype=x.dtype), y


def test_random_numbers_in_an_evaluation_do_not_depend_on_the_world() -> None:
    (outcome,) = trained(1, functools.partial(fitted, Augmented))
    for other in trained(2, functools.partial(fitted, Augmented)):
        assert evaluations(other) == evaluations(outcome)


class Loaded(Augmented):
    """The same with loaders, of which some are killed; ``log`` has who made each batch."""

    workers = 2

    def evaluation_batch(self, dataset: Any, indices: Tensor) -> Any:
        return (*super().evaluation_batch(dataset, indices), os.getpid())

    def evaluate_batch(self, model: nn.Module, batch: Any, step: Any) -> dict[str, Any]:
        *rest, maker = batch
        self.log.append("here" if maker == os.getpid() else "loader")
        if self.log.count("loader") == 2:
            os.kill(maker, signal.SIGKILL)
        return super().evaluate_batch(model, rest, step)


def test_loaders_make_its_batches_and_change_no_figure() -> None:
    (outcome,) = trained(1, functools.partial(fitted, Augmented))
    for other in trained(2, functools.partial(fitted, Loaded)):
        assert evaluations(other) == evaluations(outcome)
        assert "loader" in other.log and "here" not in other.log


def test_with_loaders_too_it_is_repeated_when_a_worker_is_lost_in_its_middle() -> None:
    stages = [Stage((0, 1, 2)), Stage((2, 0))]
    run = functools.partial(fitted, functools.partial(Loaded, dies=1))
    outcomes = travelled(stages, run, killed={1})
    (outcome,) = trained(1, functools.partial(fitted, Augmented))
    for other in outcomes.values():
        assert evaluations(other) == evaluations(outcome)


@pytest.mark.parametrize(
    "value, said",
    [
        ("high", "'high'"),
        (None, "None"),
        ([1.0, 2.0], "[1.0, 2.0]"),
        (torch.ones(2), "tensor([1., 1.])"),
        (10**400, "1"),
        (1j, "1j"),
    ],
    ids=str,
)
def test_a_metric_that_is_no_number_is_named(value: Any, said: str) -> None:
    with pytest.raises(Mistake) as raised:
        plain({"loss": 1.0, "accuracy": value})
    assert str(raised.value).startswith(f"the metric 'accuracy' is {said}")


def test_metrics_may_be_tensors_and_any_number() -> None:
    found = plain({"a": torch.tensor([2.0]), "b": True, "c": float("nan"), "d": -math.inf})
    assert {name: str(value) for name, value in found.items()} == {
        "a": "2.0",
        "b": "1.0",
        "c": "nan",
        "d": "-inf",
    }
