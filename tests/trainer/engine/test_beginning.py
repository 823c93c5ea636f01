"""Going on from a checkpoint with other settings: carried out and said, or an error with a way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tests.trainer.engine.loops import trained
from trainer.engine.data import NEWEST, Order
from trainer.engine.setup import Differences, Setup, differences
from trainer.engine.shapes import precision
from trainer.engine.state import State
from trainer.protocol.session import CheckpointSettings, Session

# --- what differs --------------------------------------------------------------------------


def made(
    optimizer: Callable[[Any], Optimizer] = lambda p: SGD(p, lr=0.1, momentum=0.9),
    schedule: Callable[[Optimizer], Any] | None = None,
    order: Order | None = Order(20, 4, 0),  # noqa: B008
    total: int = 10,
    **values: float,
) -> Setup:
    model = nn.Linear(2, 1)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer(model.parameters())}
    if schedule is not None:
        parts["schedule"] = schedule(parts["optimizer"])
    return Setup.of_program(State(**parts), order, total).overridden(values)


def remembered(setup: Setup) -> Setup:
    """What a checkpoint has of it."""
    return Setup.of_checkpoint({"parts": {}}, json.loads(json.dumps(setup.to_about())))


def found(then: Setup, now: Setup, step: int = 7) -> dict[str, list[str]]:
    all_of_them = vars(differences(remembered(then), now, step))
    return {kind: list(texts) for kind, texts in all_of_them.items() if texts}


SCHEDULES: list[Callable[[Optimizer], Any]] = [
    lambda o: StepLR(o, 3, 0.5),
    lambda o: CosineAnnealingLR(o, 10),
    lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    lambda o: ReduceLROnPlateau(o, patience=3),
    lambda o: SequentialLR(o, [ConstantLR(o), StepLR(o, 3)], milestones=[4]),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_the_same_program_does_not_differ(optimizer: Any, schedule: Any) -> None:
    def groups(parameters: Any) -> Optimizer:
        one, other = parameters
        both = [{"params": [one]}, {"params": [other], "lr": 0.5, "weight_decay": 0.0}]
        made: Optimizer = optimizer(both, lr=0.1)
        return made

    assert found(made(groups, schedule), made(groups, schedule)) == {}


@pytest.mark.parametrize(
    "now, differs",
    [
        (partial(made, order=Order(20, 5, 0)), {"data": ["the global batch was 4 and is 5"]}),
        (
            partial(made, order=Order(24, 4, 0)),
            {"data": ["the data set had 20 samples and has 24"]},
        ),
        (
            partial(made, order=Order(20, 4, 9)),
            {"data": ["the data's order was that of seed 0 and is that of 9"]},
        ),
        (
            partial(made, order=Order(20, 4, 0, unit=2)),
            {"carried_out": ["units of 2 samples instead of no units"]},
        ),
        (
            partial(made, order=Order(20, 4, 0, version=NEWEST + 1)),
            {
                "carried_out": [
                    f"the samples come in the order of version {NEWEST}, as they did then"
                ]
            },
        ),
        (partial(made, total=99), {"carried_out": ["99 steps in all instead of 10"]}),
        (partial(made, lambda p: SGD(p, lr=0.2)), None),
        (
            partial(made, lambda p: SGD(p, lr=0.2, momentum=0.9)),
            {"settings": ["optimizer's lr was 0.1 and is 0.2"]},
        ),
        (partial(made, lr=0.2), {"settings": ["optimizer's lr was 0.1 and is 0.2"]}),
        (partial(made, Adam), {"kinds": ["optimizer was a SGD and is an Adam"]}),
        (
            partial(made, lambda p: SGD([{"params": [one]} for one in p], lr=0.1, momentum=0.9)),
            {"kinds": ["optimizer had groups of [2] parameters and has [1, 1]"]},
        ),
        (
            partial(made, lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
            {"kinds": ["optimizer's nesterov was False and is True"]},
        ),
        (
            partial(made, schedule=SCHEDULES[0]),
            {"schedules": ["schedule was a schedule of no kind and is a StepLR"]},
        ),
        (partial(made, lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=False)), {}),
    ],
)
def test_what_differs(now: Callable[[], Setup], differs: dict[str, list[str]] | None) -> None:
    result = found(made(), now())
    if differs is None:  # several settings: each is named
        assert result == {
            "settings": [
                "optimizer's lr was 0.1 and is 0.2",
                "optimizer's momentum was 0.9 and is 0",
            ]
        }
    else:
        assert result == differs


def test_schedules_differ_by_their_settings() -> None:
    then = made(schedule=SCHEDULES[1])
    longer = made(schedule=lambda o: CosineAnnealingLR(o, 20))
    assert found(then, longer) == {"schedules": ["schedule's T_max was 10 and is 20"]}
    other = made(schedule=SCHEDULES[0])
    assert found(then, other) == {"schedules": ["schedule was a CosineAnnealingLR and is a StepLR"]}
    inner = made(schedule=lambda o: SequentialLR(o, [ConstantLR(o), StepLR(o, 9)], milestones=[4]))
    assert list(found(made(schedule=SCHEDULES[4]), inner)) == ["schedules"]


def test_between_two_epochs_the_order_may_change() -> None:
    now = made(order=Order(20, 4, 9))
    assert list(found(made(), now, step=5)) == ["carried_out"]
    assert list(found(made(), now, step=4)) == ["data"]
    assert list(found(made(), made(order=Order(24, 4, 9)), step=5)) == ["data", "carried_out"]


def test_the_order_of_a_newer_swell_is_not_guessed() -> None:
    then, now = made(order=Order(20, 4, 0, version=NEWEST + 1)), made()
    said = (
        f"the data's order is of version {NEWEST + 1}, and this is a Swell of before, with "
        f"version {NEWEST}"
    )
    assert found(then, now, step=5) == {"data": [said]}, "between two epochs, too"


def test_of_an_older_checkpoint_less_is_known() -> None:
    about = {"total_steps": 10, "seed": 3, "global_batch": 4, "samples": 20}
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = StepLR(optimizer, 1, 0.5)
    optimizer.step()
    schedule.step()
    optimizer.param_groups[0]["momentum"] = 0.85  # as a cycle does
    tree = {"parts": {"optimizer": optimizer.state_dict(), "model": {}}}
    then = Setup.of_checkpoint(tree, about)
    assert differences(then, made(schedule=SCHEDULES[1]), 7) == Differences()
    (setting,) = differences(then, made(lambda p: SGD(p, lr=0.2, momentum=0.9)), 7).settings
    assert setting == "optimizer's lr was 0.1 and is 0.2"
    (kind,) = differences(then, made(AdamW), 7).kinds
    assert kind.startswith("optimizer had the settings dampening, lr, maximize, momentum, nesterov")


def test_settings_that_are_no_numbers_cannot_be_overridden() -> None:
    then, now = (
        Setup.of_program(
            State(model=one, optimizer=Adam(one.parameters(), betas=betas)), None, 9, 0
        )
        for one, betas in ((nn.Linear(1, 1), (0.9, 0.999)), (nn.Linear(1, 1), (0.5, 0.999)))
    )
    found = differences(then, now, 7)
    assert found.settings == ()
    assert found.fixed == ("optimizer's betas was [0.9, 0.999] and is [0.5, 0.999]",)


# --- runs ----------------------------------------------------------------------------------


class Run:
    """A run of its own, whose loop says what it began with."""

    def __init__(self, url: str, start: str = "", **how: Any) -> None:
        self.url, self.start, self.how = url, start, how

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        how = {"batch": 4, "samples": 20, "lr": 0.1, "epochs": 2, "seed": 0, **self.how}
        settings = CheckpointSettings(
            every=0.0, every_steps=4, keep=9, start_from=self.start, override=how.get("set", {})
        )
        os.environ.update(Session(self.url, f"w-{os.getpid()}", checkpoint=settings).to_env())
        torch.manual_seed(int(self.start != ""))
        model = nn.Linear(1, 1).double()
        if how.get("adam"):
            optimizer: Optimizer = Adam(model.parameters(), lr=how["lr"])
        else:
            optimizer = SGD(model.parameters(), lr=how["lr"], momentum=0.9)
        scheduler = StepLR(optimizer, 3, 0.5)
        state = elastic.State(model=model, optimizer=optimizer, scheduler=scheduler)
        order = elastic.batches(how["samples"], how["batch"], how["seed"])
        x = torch.linspace(-1, 1, how["samples"], dtype=torch.float64).unsqueeze(1)
        for step in elastic.steps(state, order, epochs=how["epochs"]):
            if not log:
                held = [len(one) for one in optimizer.state.values()]
                log.append(
                    (step.number, model.weight.item(), optimizer.param_groups[0]["lr"], held)
                )
            with step:
                loss = model(x[step.indices]).square().sum() / step.batch_size
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]
        log.append((state.step, model.weight.item()))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the run directory of a whole run: ten steps."""
    url = str(tmp_path_factory.mktemp("first"))
    (outcome,) = trained(1, Run(url))
    assert outcome.error == ""
    return url


def test_a_run_goes_on_as_if_it_had_not_ended(first: str, tmp_path: Path) -> None:
    whole = trained(1, Run(str(tmp_path / "whole"), epochs=4))[0].log[-1]
    start = f"{first}/checkpoints/step-000000010"
    (outcome,) = trained(1, Run(str(tmp_path / "more"), start, epochs=4))
    assert outcome.error == ""
    assert outcome.log[0][0] == 11 and outcome.log[-1] == whole


@pytest.mark.parametrize(
    "step, how, wrong, way",
    [
        (8, {"batch": 5}, "the global batch was 4 and is 5", "set it back to what it was"),
        (8, {"samples": 21}, "the data set had 20 samples and has 21", "set it back to what"),
        (8, {"seed": 1}, "the data's order was that of seed 0 and is that of 1", "set it back"),
        (8, {"lr": 0.2}, "optimizer's lr was 0.1 and is 0.2", "write --override NAME=NUMBER, as"),
        (10, {}, "it is of step 10, and this run has 10 steps in all", "let it train longer"),
        (10, {"epochs": 1}, "it is of step 10, and this run has 5 steps in all", "let it train"),
    ],
)
def test_what_does_not_fit_is_an_error_with_the_ways_to_go_on(
    first: str, tmp_path: Path, step: int, how: dict[str, Any], wrong: str, way: str
) -> None:
    start = f"{first}/checkpoints/step-{step:09d}"
    (outcome,) = trained(1, Run(str(tmp_path), start, **how))
    assert outcome.log == []
    assert outcome.error.startswith(
        f"Mistake: the checkpoint {start} does not fit this program: {wrong}. "
        f"What can be done: {way}"
    )
    assert f"models and optimizers: --from {start}#weights,optimizer, or begin" in outcome.error
    assert outcome.error.endswith(f"with its models alone: --from {start}#weights")


def test_for_another_optimizer_there_are_the_weights(first: str, tmp_path: Path) -> None:
    start = f"{first}/checkpoints/step-000000008"
    for part in ("", "#weights,optimizer"):
        (outcome,) = trained(1, Run(str(tmp_path / "no"), f"{start}{part}", adam=True))
        assert "optimizer was a SGD and is an Adam. What can be done: " in outcome.error
        assert "#weights,optimizer" not in outcome.error
        assert outcome.error.endswith(f"--from {start}#weights")
    (outcome,) = trained(1, Run(str(tmp_path), f"{start}#weights", adam=True, batch=5, lr=0.3))
    assert outcome.error == ""
    number, _, lr, held = outcome.log[0]
    assert (number, lr, held) == (1, 0.3, [])


def test_models_and_optimizers_begin_at_step_0_with_the_settings_of_the_program(
    first: str, tmp_path: Path
) -> None:
    start = f"{first}/checkpoints/step-000000008"
    (whole,) = trained(1, Run(str(tmp_path / "whole"), start))
    (outcome,) = trained(1, Run(str(tmp_path), f"{start}#weights,optimizer", batch=5, lr=0.3))
    assert outcome.error == ""
    number, weight, lr, held = outcome.log[0]
    assert (number, weight, lr, held) == (1, whole.log[0][1], 0.3, [1, 1])
    assert outcome.log[-1][0] == 8, "20 samples by 5, twice"


def test_an_override_is_carried_out(first: str, tmp_path: Path) -> None:
    start = f"{first}/checkpoints/step-000000008"
    for lr in (0.2, 0.8):  # what the program says counts less
        url = str(tmp_path / str(lr))
        (outcome,) = trained(1, Run(url, start, lr=lr, set={"lr": 0.8}))
        assert outcome.error == ""
        number, _, rate, _ = outcome.log[0]
        assert (number, rate) == (9, pytest.approx(0.2)), "two halvings lie behind"
    again = f"{tmp_path}/0.2/checkpoints/step-000000010"
    (outcome,) = trained(1, Run(str(tmp_path / "again"), again, epochs=3, lr=0.2))
    assert "optimizer's lr was 0.8 and is 0.2" in outcome.error, "it is not overruled in silence"
    (outcome,) = trained(1, Run(str(tmp_path / "odd"), start, set={"lrr": 1.0}))
    assert "--override lrr=1: no optimizer of the state has this setting" in outcome.error


# --- other models --------------------------------------------------------------------------


class Layers:
    """A run of two layers of the same shape, which a program may make and give in its own way."""

    def __init__(self, url: str, start: str = "", **how: Any) -> None:
        self.url, self.start, self.how = url, start, how

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        names = self.how.get("names", ("first", "second"))
        settings = CheckpointSettings(every=0.0, every_steps=2, keep=9, start_from=self.start)
        os.environ.update(Session(self.url, f"w-{os.getpid()}", checkpoint=settings).to_env())
        torch.manual_seed(0)
        width = self.how.get("width", 2)
        layers = {name: nn.Linear(width, width) for name in names}
        model = nn.ModuleDict(layers).to(self.how.get("dtype", torch.float64))
        layers[names[0]].requires_grad_(not self.how.get("frozen"))
        groups = [*model.parameters()]
        optimizer = Adam(groups[::-1] if self.how.get("reversed") else groups, lr=0.1)
        state = elastic.State(model=model, optimizer=optimizer)
        total = self.how.get("total", 4)
        order = elastic.batches(8, 4) if self.how.get("data") else None
        x = torch.ones(1, width, dtype=self.how.get("dtype", torch.float64))
        seed = self.how.get("seed", 0)
        for step in elastic.steps(state, order, total=total, seed=seed):
            with step:
                layers[names[1]](layers[names[0]](x)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]
            weights = [layers[name].weight.tolist() for name in names]
            log.append((step.number, weights, str(layers[names[0]].weight.dtype)))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a checkpoint after four steps of two layers."""
    url = str(tmp_path_factory.mktemp("layers"))
    assert trained(1, Layers(url))[0].error == ""
    return f"{url}/checkpoints/step-000000004"


@pytest.mark.parametrize(
    "how, part, wrong, ways",
    [
        (
            {"names": ("first", "other")},
            "",
            "model is another model: other.weight is missing in it; other.bias is missing in it; "
            "second.bias is only in it; second.weight is only in it",
            "give the model the tensors that it had then, with their names and shapes",
        ),
        (
            {"width": 3},
            "#weights",
            "model is another model: first.weight is [2, 2] in it, [3, 3] here; first.bias is [2] "
            "in it, [3] here; second.weight is [2, 2] in it, [3, 3] here; second.bias is [2] in it",
            "give the model the tensors",
        ),
        (
            {"reversed": True},  # of the same shapes: torch would exchange what Adam remembers
            "",
            "optimizer had model.first.weight as parameter 0 of its group 0, and has "
            "model.second.bias",
            "set it back to what it was, or begin at step 0 with its models alone",
        ),
        (
            {"data": True},
            "",
            "its steps were without a data set and are of a data set",
            "set it back to what it was",
        ),
    ],
)
def test_another_model_is_none_to_go_on_with(
    layers: str, tmp_path: Path, how: dict[str, Any], part: str, wrong: str, ways: str
) -> None:
    for size in (1, 2) if "width" in how else (1,):
        outcomes = trained(size, Layers(str(tmp_path), f"{layers}{part}", total=6, **how))
        for outcome in outcomes:
            assert outcome.log == []
            expected = f"Mistake: the checkpoint {layers} does not fit this program: {wrong}"
            assert outcome.error.startswith(expected)
            assert f"What can be done: {ways}" in outcome.error


def test_another_precision_goes_on_in_it_with_its_optimizer(layers: str, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        url = str(tmp_path / str(dtype))
        (outcome,) = trained(1, Layers(url, layers, total=6, dtype=dtype))
        assert outcome.error == ""
        assert [(number, kind) for number, _, kind in outcome.log] == [
            (5, str(dtype)),
            (6, str(dtype)),
        ]
        (whole,) = trained(1, Layers(f"{url}-whole", layers, total=6))
        there, expected = torch.tensor(outcome.log[-1][1]), torch.tensor(whole.log[-1][1])
        assert torch.allclose(there, expected, rtol=0.05, atol=0.05), "its moments, too"


def test_what_the_program_freezes_now_is_frozen(layers: str, tmp_path: Path) -> None:
    url = str(tmp_path / "frozen")
    (outcome,) = trained(1, Layers(url, layers, total=6, frozen=True))
    assert outcome.error == ""
    (_, one, _), (_, other, _) = outcome.log
    assert one[0] == other[0] and one[1] != other[1]
    again = f"{url}/checkpoints/step-000000006"
    (outcome,) = trained(1, Layers(str(tmp_path / "thawed"), again, total=8))
    assert outcome.error == ""
    (_, one, _), (_, other, _) = outcome.log
    assert one[0] != other[0] and one[1] != other[1]


def test_what_goes_on_otherwise_is_said() -> None:
    def setup(frozen: bool, random: int) -> Setup:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[0].requires_grad_(not frozen)
        state = State(model=model, optimizer=SGD(model.parameters(), lr=0.1))
        return Setup.of_program(state, None, 5, random)

    assert found(setup(False, 0), setup(True, 3)) == {
        "carried_out": [
            "what is random is that of seed 3 instead of 0",
            "model.0.bias; model.0.weight are frozen now",
        ]
    }
    assert found(setup(True, 0), setup(False, 0)) == {
        "carried_out": ["model.0.bias; model.0.weight are trained now"]
    }
    lines = precision("model", nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).state_dict())
    assert lines == ["model is bfloat16 instead of float32"]


def test_a_runs_own_checkpoint_is_not_read_as_that_of_other_data(tmp_path: Path) -> None:
    """Its program reads a data set that has grown meanwhile."""
    url = str(tmp_path)
    trained(1, Run(url, epochs=1))
    (outcome,) = trained(1, Run(url, samples=24, lr=0.3))
    assert outcome.error.startswith(
        "Mistake: the run's checkpoint of step 5 does not fit its program any more: the data set "
        "had 20 samples and has 24. Set it back to what it was, or launch a new run"
    )
    (outcome,) = trained(1, Run(url, epochs=3, lr=0.3))
    assert (outcome.error, outcome.log[0][0]) == ("", 6)
