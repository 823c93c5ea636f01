"""What a task asks of the loop comes out as in a plain loop, in every world."""

from __future__ import annotations

import copy
import functools
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import Outcome, trained, travelled
from trainer import Schedule, Task, decay_groups
from trainer.engine.data import Order

RTOL = 1e-9
SAMPLES, BATCH, EPOCHS = 22, 8, 3
STEPS = EPOCHS * 3


class Recipe(Task):
    """A small regression in float64; ``seen`` has what each step has logged."""

    epochs = EPOCHS
    global_batch = BATCH
    micro_batch = 2

    def __init__(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)
        self.seen: list[list[float]] = []

    def dataset(self) -> TensorDataset:
        x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1)).double()
        return TensorDataset(x, x.sum(1, keepdim=True) * 10)

    def model(self) -> nn.Module:
        layers = [nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)]
        return nn.Sequential(*layers).double()

    def optimizer(self, model: nn.Module) -> Optimizer | Sequence[Optimizer]:
        return torch.optim.AdamW(decay_groups(model, weight_decay=0.5), lr=0.05)

    def loss(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        return (model(x) - y).square().mean()

    def after_update(self, model: nn.Module) -> None:
        self.seen.append([float(p.detach().sum()) for p in model.parameters()])


def fitted(make: Callable[[], Recipe], log: list[Any]) -> None:
    """Logs, for each step, what was logged of it and what the model was then."""
    from trainer import fit
    from trainer.engine.steps import Steps

    task = make()
    completed = Steps._completed

    def watched(self: Steps, step: Any) -> None:
        completed(self, step)
        log.append((step.number, dict(step.metrics), task.seen[-1]))

    Steps._completed = watched  # type: ignore[method-assign]
    try:
        fit(task)
    finally:
        Steps._completed = completed  # type: ignore[method-assign]


JOURNEY = [Stage((0, 1, 2), 1, 3, dies=1), Stage((0, 2), 3, 5, asks=1), Stage((3, 2, 0), 6)]


def everywhere(make: Callable[[], Recipe], worlds: Sequence[int] = (1, 3)) -> list[Outcome]:
    """The outcomes of all ranks, in worlds of some sizes and in one that changes."""
    run = functools.partial(fitted, make)
    outcomes = [one for size in worlds for one in trained(size, run)]
    outcomes += travelled(JOURNEY, run).values()
    assert {one.error for one in outcomes} == {""}
    assert {len(one.log) for one in outcomes} == {STEPS, STEPS - 5}
    return outcomes


def plain_steps() -> Any:
    """(number, samples) of each step."""
    order = Order(SAMPLES, BATCH, 0)
    for number in range(STEPS):
        start, stop = order.bounds(number)
        yield number, order.permutation(order.epoch_of(number))[start:stop]


def clipping() -> Recipe:
    return Recipe(clip_norm=0.5, schedule=Schedule("cosine", warmup=3, floor=0.1), ema=0.9)


class Decided(Recipe):
    """Numbers beside the loss: one from it, one by itself, one a mean over something else."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        out = model(x)
        return {"loss": (out - y).square().mean(), "off": (out.detach() - y).abs().mean()}

    def metrics(self, model: nn.Module, batch: Any, step: Any) -> dict[str, Any]:
        assert not model.training and not torch.is_grad_enabled()
        x, y = batch
        positive = y > 0
        off = (model(x) - y).abs()
        return {"positive": (off[positive].sum(), positive.sum()), "twice": 2 * off.mean()}


def test_clipping_schedule_and_groups_come_out_as_in_a_plain_loop() -> None:
    task = clipping()
    torch.manual_seed(0)
    model, (x, y) = task.model(), task.dataset().tensors
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    factor = Schedule("cosine", warmup=3, floor=0.1).factors(STEPS, BATCH)
    expected = {}
    for number, i in plain_steps():
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * factor(number)
        optimizer.zero_grad()
        loss = (model(x[i]) - y[i]).square().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        metrics = {"loss": loss.item(), "lr": 0.05 * factor(number), "norm": float(norm)}
        expected[number + 1] = metrics, [float(p.detach().sum()) for p in model.parameters()]
    assert expected[1][0]["norm"] > 0.5, "it is clipped"
    for outcome in everywhere(clipping):
        for number, metrics, parameters in outcome.log:
            assert metrics == pytest.approx(expected[number][0], rel=RTOL)
            assert parameters == pytest.approx(expected[number][1], rel=RTOL, abs=1e-12)


def test_numbers_beside_the_loss_are_means_over_the_whole_batch() -> None:
    for outcome in everywhere(functools.partial(Decided)):
        task, log = Decided(), outcome.log
        x, y = task.dataset().tensors
        torch.manual_seed(0)
        model = task.model()
        optimizer: Any = task.optimizer(model)
        for number, i in plain_steps():
            off = (model(x[i]) - y[i]).abs()
            found = {
                "off": off.mean().item(),
                "twice": off.mean().item() * 2,
                "loss": off.square().mean().item(),
                "lr": 0.05,
            }
            if (y[i] > 0).any():  # of none there is no mean
                found["positive"] = off[y[i] > 0].mean().item()
            optimizer.zero_grad()
            off.square().mean().backward()
            optimizer.step()
            if number + 1 >= log[0][0]:
                assert log[number + 1 - log[0][0]][1] == pytest.approx(found, rel=RTOL)


class Randomly(Recipe):
    """Dropout, batch normalisation, augmentation, and noise in the update."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.units: list[int] = []

    def model(self) -> nn.Module:
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)]
        return nn.Sequential(*layers).double()

    def batch(self, dataset: Any, indices: Tensor) -> Any:
        x, y = dataset[indices]
        return x + 0.1 * torch.randn(x.shape, dtype=x.dtype), y

    def before_update(self, model: nn.Module) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad += 1e-3 * torch.randn(p.shape, dtype=p.dtype)

    def after_update(self, model: nn.Module) -> None:
        super().after_update(model)
        self.seen[-1] += [float(one.double().sum()) for one in model.buffers()]


@pytest.mark.parametrize("unit", [None, 3])
def test_with_randomness_on_the_numbers_are_the_same_in_any_world(unit: int | None) -> None:
    lone, *others = everywhere(functools.partial(Randomly, unit=unit), worlds=(1, 2, 3, 4))
    expected = {number: rest for number, *rest in lone.log}
    for outcome in others:
        for number, metrics, numbers in outcome.log:
            assert metrics == pytest.approx(expected[number][0], rel=RTOL)
            assert numbers == pytest.approx(expected[number][1], rel=RTOL, abs=1e-12)


class Later(Recipe):
    """Random numbers come with the fifth step."""

    micro_batch = None  # type: ignore[assignment]

    def loss(self, model: nn.Module, batch: Any, step: Any) -> Any:  # type: ignore[override]
        x, y = batch
        self.seen.append([float(len(x))])
        out = model(x)
        if step.number >= 5:
            out = nn.functional.dropout(out, 0.5)
        return (out - y).square().mean()


def test_units_begin_with_the_step_that_shows_that_they_matter() -> None:
    lone, *others = everywhere(Later)
    expected = {number: metrics for number, metrics, _ in lone.log}
    for outcome in others:
        for number, metrics, _ in outcome.log:
            assert metrics == pytest.approx(expected[number], rel=RTOL)


def sizes(make: Callable[[], Recipe], log: list[Any]) -> None:
    from trainer import fit

    task = make()
    fit(task)
    log += [int(one[0]) for one in task.seen if len(one) == 1]


def test_a_share_is_computed_at_once_until_then_and_by_units_from_then_on() -> None:
    (outcome,) = trained(1, functools.partial(sizes, Later))
    assert outcome.error == ""
    assert outcome.log[:5] == [8, 8, 6, 8, 8], "the fifth step is taken again"
    assert outcome.log[5:9] == [2, 2, 2, 2]
    (outcome,) = trained(1, functools.partial(sizes, functools.partial(Later, unit=0)))
    assert outcome.log == [8, 8, 6] * EPOCHS


class Scaled(Recipe):
    """float16 with a scale that is too large at first."""

    precision = "fp16"
    clip_norm = 1.0

    def model(self) -> nn.Module:
        return super().model().float()

    def batch(self, dataset: Any, indices: Tensor) -> Any:
        return tuple(one.float() for one in dataset[indices])

    def loss(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        out = model(x)
        assert out.dtype is torch.float16
        return (out - y).square().mean()


def test_float16_skips_the_same_steps_on_all_ranks_and_learns() -> None:
    lone, *others = everywhere(Scaled)
    first = lone.log[0][2]
    moved = [entry[2] != first for entry in lone.log]
    assert moved[-1] and not moved[1], "the first steps overflow"
    for outcome in others:
        for number, metrics, _ in outcome.log:
            assert metrics["loss"] == pytest.approx(lone.log[number - 1][1]["loss"], rel=0.05)


class Low(Recipe):
    precision = "bf16"
    channels_last = True
    recompute = ("0", "3")

    def model(self) -> nn.Module:
        conv = nn.Conv2d(1, 4, 2)
        return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(4, 1))

    def batch(self, dataset: Any, indices: Tensor) -> Any:
        x, y = dataset[indices]
        return x.float().view(-1, 1, 2, 2), y.float()

    def loss(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        weight: Any = model.state_dict()["0.weight"]  # its name is what it was
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert x.is_contiguous(memory_format=torch.channels_last)
        out = model(x)
        assert out.dtype is torch.bfloat16 and weight.dtype is torch.float32
        return (out - y).square().mean()


def test_bfloat16_channels_last_and_recomputation_train() -> None:
    lone, *others = everywhere(Low)
    losses = [entry[1]["loss"] for entry in lone.log]
    epoch = STEPS // EPOCHS
    assert sum(losses[-epoch:]) < sum(losses[:epoch]), "each has all samples"
    for outcome in others:
        for number, metrics, _ in outcome.log:
            assert metrics["loss"] == pytest.approx(losses[number - 1], rel=0.05)


class Muonic(Recipe):
    """Two optimizers, each with a schedule."""

    schedule = Schedule("wsd", warmup=2, decay=3)

    def optimizer(self, model: nn.Module) -> Sequence[Optimizer]:
        matrices = [p for p in model.parameters() if p.ndim == 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.05)]


def test_several_optimizers_step_and_follow_the_schedule() -> None:
    lone, *others = everywhere(Muonic)
    assert [entry[1]["lr"] / 0.02 for entry in lone.log] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]
    )
    assert all(entry[1]["lr_1"] / entry[1]["lr"] == pytest.approx(2.5) for entry in lone.log)
    for outcome in others:
        for number, metrics, parameters in outcome.log:
            assert metrics == pytest.approx(lone.log[number - 1][1], rel=1e-6)
            assert parameters == pytest.approx(lone.log[number - 1][2], rel=1e-4, abs=1e-6)


class Compiled(Recipe):
    """By a backend that is quick; ``graphs`` has how many there were after each step."""

    unit = 2

    def after_update(self, model: nn.Module) -> None:
        from torch._dynamo.utils import counters

        assert next(iter(model.state_dict())) == "0.weight"
        super().after_update(model)
        self.seen[-1].append(counters["stats"].get("unique_graphs", 0))


def test_a_compiled_model_trains_the_same_and_nothing_is_compiled_anew() -> None:
    (plain,) = trained(1, functools.partial(fitted, functools.partial(Recipe, unit=2)))
    compiled = functools.partial(Compiled, compile="aot_eager")
    for outcome in everywhere(compiled, worlds=(1,)):
        for number, metrics, numbers in outcome.log:
            assert metrics == pytest.approx(plain.log[number - 1][1], rel=RTOL)
            assert numbers[:-1] == pytest.approx(plain.log[number - 1][2], rel=RTOL, abs=1e-12)
        graphs = [numbers[-1] for _, _, numbers in outcome.log]
        assert graphs == [1] * len(graphs), "one, before the first step"


class Averaged(Recipe):
    ema = 0.75

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {f"p{i}": float(p.sum()) for i, p in enumerate(model.parameters())}


def averaged(log: list[Any]) -> None:
    from trainer import fit

    task = Averaged()
    torch.manual_seed(0)
    now = [float(p.detach().sum()) for p in task.model().parameters()]
    metrics = fit(task)
    for parameters in task.seen:
        now = [0.75 * one + 0.25 * other for one, other in zip(now, parameters, strict=True)]
    log += [now, [metrics[f"p{i}"] for i in range(len(now))]]


def test_the_moving_average_is_what_is_evaluated() -> None:
    (outcome,) = trained(1, averaged)
    assert outcome.error == ""
    assert outcome.log[0] == pytest.approx(outcome.log[1], rel=RTOL, abs=1e-12)


class Wrong(Recipe):
    """One mistake each."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        match how:
            case "precision":
                self.precision = "half"  # type: ignore[assignment]
            case "ema":
                self.ema = 1.5
            case "recompute":
                self.recompute = ["blocks.*"]
            case "schedule":
                self.schedule = Schedule(warmup=100)

    def loss(self, model: nn.Module, batch: Any) -> Any:
        loss = super().loss(model, batch)
        match self.how:
            case "no loss":
                return {"off": loss}
            case "vector":
                return {"loss": loss, "off": batch[1]}
        return loss


@pytest.mark.parametrize(
    "how, error",
    [
        ("precision", "precision is 'half'; write fp32, bf16 or fp16"),
        ("ema", "ema is 1.5; it is what stays in each step"),
        ("recompute", "recompute: no module is called 'blocks.*'; there are 0, 1, 2, 3"),
        ("schedule", "the schedule of the learning rate: its warm-up takes 100 steps"),
        ("no loss", "loss() returned a dict without 'loss': ['off']"),
        ("vector", "the metric 'off' has shape [2, 1]"),
    ],
)
def test_what_cannot_be_meant_is_refused(how: str, error: str) -> None:
    (outcome,) = trained(1, functools.partial(fitted, functools.partial(Wrong, how)))
    assert outcome.error.startswith(f"Mistake: {error}")


def test_tied_parameters_are_in_one_group() -> None:
    model: Any = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.LayerNorm(5))
    model[1].weight = model[0].weight
    decaying, others = decay_groups(model, weight_decay=0.1, lr=0.5)
    assert decaying == {"params": [model[0].weight], "weight_decay": 0.1, "lr": 0.5}
    assert others["weight_decay"] == 0.0 and len(others["params"]) == 2
    (all_decay,) = decay_groups(copy.deepcopy(model), 0.1, decays=lambda name, parameter: True)
    assert len(all_decay["params"]) == 3


def finished(log: list[Any], fatal: bool) -> None:
    """Trains, and logs who finishes; in a world of two that is fatal, if it is to be."""
    from trainer import fit

    def finish(model: nn.Module, step: Any) -> None:
        if fatal and step.size == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        log.append((step.number, step.size, float(next(model.parameters()).detach().sum())))

    task = Recipe(ema=0.5)
    task.finish = finish  # type: ignore[method-assign]
    fit(task)


def test_one_rank_finishes_with_the_model_that_is_evaluated() -> None:
    first, second = trained(2, functools.partial(finished, fatal=False))
    assert first.error == second.error == "" and second.log == []
    [(number, size, average)] = first.log
    [(_, _, alone)] = trained(1, functools.partial(finished, fatal=False))[0].log
    assert (number, size) == (STEPS, 2) and average == pytest.approx(alone, rel=RTOL)


def test_another_rank_finishes_when_the_first_is_lost_in_it() -> None:
    stages = [Stage((0, 1)), Stage((1,))]
    left = travelled(stages, functools.partial(finished, fatal=True), killed=[0])
    assert left[1].error == "" and [one[:2] for one in left[1].log] == [(STEPS, 1)]
