"""The functions of schedules, compared by what they give."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, MultiplicativeLR, SequentialLR, StepLR

from tests.trainer.engine.loops import trained
from trainer.engine.curves import POINTS, curve, curves_of, differences_of
from trainer.engine.setup import Setup, differences
from trainer.engine.state import State
from trainer.protocol.session import CheckpointSettings, Session


def optimizer(groups: int = 1) -> Optimizer:
    return SGD([{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(groups)], lr=0.1)


def halved(after: float) -> Callable[[int], float]:
    return lambda step: 0.5 if step >= after else 1.0


def test_a_curve_has_the_first_counts_and_some_over_the_whole_run() -> None:
    found = curve(lambda step: step, 10_000)
    assert found is not None and found == {count: float(count) for count in found}
    assert [*range(8)] == [count for count in found if count < 8]
    assert POINTS / 2 < len(found) < POINTS + 9 and max(found) > 9_800
    longer = curve(lambda step: step, 25_000)
    assert longer is not None and len(found.keys() & longer.keys()) > 40


@pytest.mark.parametrize("total", [0, 1, 3])
def test_the_shortest_runs_have_curves_too(total: int) -> None:
    assert curve(halved(2), total) == {n: 1.0 if n < 2 else 0.5 for n in range(8)}


class Counts:
    """A schedule's function that is an object, and counts its calls."""

    calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 1.0 / self.calls


def test_asking_changes_nothing() -> None:
    function = Counts()
    curve(function, 100)
    assert function.calls == 0


TABLE = [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    "function, found",
    [
        (lambda step: TABLE[step], {0: 1.0, 1: 0.5, 2: 0.25}),
        (lambda step: 1 / step, None),
        (lambda: 1.0, None),
        (lambda step: "high", None),
    ],
)
def test_it_is_asked_up_to_what_it_cannot_answer(function: Any, found: Any) -> None:
    assert curve(function, 100) == found


def test_all_functions_of_a_schedule_are_asked() -> None:
    one, other = halved(2), halved(3)
    assert curves_of(StepLR(optimizer(), 3), 5) == {}
    assert [*curves_of(LambdaLR(optimizer(3), one), 5)] == ["0"]
    assert [*curves_of(LambdaLR(optimizer(3), [one, other, one]), 5)] == ["0", "1"]
    assert [*curves_of(MultiplicativeLR(optimizer(), one), 5)] == ["0"]
    both = optimizer()
    inner = [ConstantLR(both), LambdaLR(both, one)]
    assert [*curves_of(SequentialLR(both, inner, milestones=[4]), 5)] == ["1.0"]


@pytest.mark.parametrize(
    "then, now, said",
    [
        ({"0": {0: 1.0, 4: 0.5}}, {"0": {0: 1.0, 4: 0.5 + 1e-13, 8: 0.1}}, []),
        ({"0": {0: math.nan}}, {"0": {0: math.nan}}, []),
        (
            {"0": {0: 1.0, 4: 0.5, 8: 0.1}},
            {"0": {0: 1.0, 4: 0.25, 8: 0.2}},
            ["schedule's function gives 0.25 instead of 0.5 for 4"],
        ),
        (
            {"0": {0: 1.0}, "1": {0: 1.0}},
            {"0": {0: 1.0}, "1": {0: 0.0}},
            ["schedule's function 1 gives 0 instead of 1 for 0"],
        ),
        (
            {"0": {0: 1.0}},
            {"0": None},
            ["schedule's function is not compared with what it was: it cannot be asked"],
        ),
        (
            None,
            {"0": {0: 1.0}},
            ["schedule's function is not compared with what it was: the checkpoint does not know "
             "it"],
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_two(then: Any, now: Any, said: list[str]) -> None:
    assert differences_of("schedule", then, now) == said


def setup(function: Callable[[int], float], total: int = 60) -> Setup:
    made = optimizer()
    schedule = LambdaLR(made, function)
    model = torch.nn.Module()
    model.weight = made.param_groups[0]["params"][0]
    return Setup.of_program(State(model=model, optimizer=made, schedule=schedule), None, total)


def test_a_checkpoint_knows_what_its_schedules_functions_gave() -> None:
    about = json.loads(json.dumps(setup(halved(30)).to_about()))
    then = Setup.of_checkpoint({"parts": {}}, about)
    assert differences(then, setup(halved(29.5)), 10).carried_out == ()
    assert differences(then, setup(halved(20)), 10).carried_out == (
        "schedule's function gives 0.5 instead of 1 for 20",
    )
    assert differences(then, setup(halved(30), total=90), 10).carried_out == (
        "90 steps in all instead of 60",
    )
    del about["curves"]  # an older one
    older = Setup.of_checkpoint({"parts": {}}, about)
    assert differences(older, setup(halved(30)), 10).carried_out == (
        "schedule's function is not compared with what it was: the checkpoint does not know it",
    )


class Scheduled:
    """A run of four steps whose rate falls to a factor at step 2, by a function."""

    def __init__(self, url: str, start: str, factor: float) -> None:
        self.url, self.start, self.factor = url, start, factor

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic
        from trainer.engine.generations import Generations

        said: list[Any] = []
        Generations.emit = lambda self, event, **fields: said.append((event, fields))  # type: ignore[method-assign]
        settings = CheckpointSettings(every=0.0, every_steps=2, keep=9, start_from=self.start)
        os.environ.update(Session(self.url, f"w-{os.getpid()}", checkpoint=settings).to_env())
        model = torch.nn.Linear(1, 1)
        optimizer = SGD(model.parameters(), lr=1.0)
        factor = self.factor
        scheduler = LambdaLR(optimizer, lambda step: 1.0 if step < 2 else factor)
        state = elastic.State(model=model, optimizer=optimizer, scheduler=scheduler)
        for step in elastic.steps(state, total=4 if not self.start else 6):
            log.append(optimizer.param_groups[0]["lr"])
            with step:
                model(torch.ones(1)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]
        log.append([fields["changes"] for event, fields in said if event == "begun"])


def test_a_schedules_function_is_the_programs_and_what_it_changes_is_said(tmp_path: Path) -> None:
    (first,) = trained(1, Scheduled(str(tmp_path / "first"), "", 0.5))
    assert (first.error, first.log) == ("", [1.0, 1.0, 0.5, 0.5, []])
    start = f"{tmp_path}/first/checkpoints/step-000000004"
    (same,) = trained(1, Scheduled(str(tmp_path / "same"), start, 0.5))
    assert (same.error, same.log[-1]) == ("", [["6 steps in all instead of 4"]])
    (other,) = trained(1, Scheduled(str(tmp_path / "other"), start, 0.25))
    assert other.error == ""
    assert other.log[-2] == 0.25, "from its first own step on"
    assert other.log[-1] == [
        ["6 steps in all instead of 4", "scheduler's function gives 0.25 instead of 0.5 for 2"]
    ]
