"""What a task is told, what of it survives, and what its loss is a mean over."""

from __future__ import annotations

import enum
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.trainer.engine.loops import _follow, trained
from tests.trainer.ranks import alone, formed, workers
from trainer import Task
from trainer.protocol.messages import Done, Pause, Progress, Stopped

SAMPLES, BATCH, EPOCHS = 22, 6, 3
STEPS = EPOCHS * -(-SAMPLES // BATCH)


class Phase(enum.Enum):
    FIRST = 1
    LATER = 2


class Words(Task):
    """Each sample has some tokens and some padding; the loss is a mean over tokens."""

    epochs = EPOCHS
    global_batch = BATCH

    def __init__(self, how: str = "counted", micro_batch: int | None = None) -> None:
        self.how = how
        self.micro_batch = micro_batch
        self.seen: list[Any] = []

    def dataset(self) -> TensorDataset:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(SAMPLES, 5, 4, generator=generator, dtype=torch.float64)
        lengths = torch.randint(1, 6, (SAMPLES,), generator=generator)
        return TensorDataset(tokens, torch.arange(5) < lengths.unsqueeze(1))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    def loss(self, model: nn.Module, batch: Any) -> Any:
        tokens, real = batch
        each = (model(tokens).squeeze(2) - tokens.sum(2)).square() * real
        if self.how == "by turns" and len(tokens) > 1:
            return each.mean()
        return each.sum(), real.sum()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {f"p{i}": float(p.detach().sum()) for i, p in enumerate(model.parameters())}


@functools.cache
def plainly() -> dict[str, float]:
    from trainer.engine.data import Order

    task = Words()
    torch.manual_seed(task.seed)
    model = task.model()
    optimizer = task.optimizer(model)
    tokens, real = task.dataset().tensors
    order = Order(SAMPLES, BATCH, 0)
    for number in range(STEPS):
        start, stop = order.bounds(number)
        i = order.permutation(order.epoch_of(number))[start:stop]
        optimizer.zero_grad()
        each = (model(tokens[i]).squeeze(2) - tokens[i].sum(2)).square()
        (each[real[i]].mean()).backward()
        optimizer.step()
    return task.evaluate(model)


def fitted(task: Task, log: list[Any]) -> None:
    from trainer import fit

    log.append(fit(task))
    log.append(getattr(task, "seen", None))


@pytest.mark.parametrize("micro_batch", [None, 1, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_mean_over_tokens_does_not_depend_on_how_a_batch_is_split(
    size: int, micro_batch: int | None
) -> None:
    expected = plainly()
    outcomes = trained(size, functools.partial(fitted, Words("counted", micro_batch)))
    assert [one.error for one in outcomes] == [""] * size
    found = next(one.log[0] for one in outcomes if one.log[0])
    assert found == pytest.approx(expected, rel=1e-9)


def by_hand(log: list[Any]) -> None:
    """The same in a loop of one's own."""
    from trainer import elastic

    task = Words()
    torch.manual_seed(task.seed)
    model = task.model()
    optimizer = task.optimizer(model)
    tokens, real = task.dataset().tensors
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), epochs=EPOCHS):
        with step:
            for part in step.split(2):
                each = (model(tokens[part]).squeeze(2) - tokens[part].sum(2)).square()
                loss = each[real[part]].sum()
                step.mean_over(real[part].sum())
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
        log.append(step.metrics["loss"])
    log.append(task.evaluate(model))


def test_a_loop_of_ones_own_counts_too() -> None:
    expected = plainly()
    (lone,) = trained(1, by_hand)
    first, second = trained(2, by_hand)
    assert (lone.error, first.error, second.error) == ("", "", "")
    assert lone.log[-1] == pytest.approx(expected, rel=1e-9)
    assert first.log[-1] == pytest.approx(expected, rel=1e-9)
    assert first.log[:-1] == pytest.approx(lone.log[:-1], rel=1e-9)
    assert second.log == pytest.approx(lone.log[:-1], rel=1e-9)


def test_means_and_sums_are_not_mixed() -> None:
    (outcome,) = trained(1, functools.partial(fitted, Words("by turns", 5)))
    assert "loss() has returned a mean for some batches, and (sum, count) for others" in (
        outcome.error
    )


# --- what it is told, and what survives -------------------------------------------------------


class Annealed(Words):
    """Its loss depends on how far it is; its methods take the step."""

    warmth: float
    phase: Phase
    calls: list[int]

    def state(self) -> dict[str, Any]:
        return {"warmth": 1.0, "phase": Phase.FIRST, "calls": [0]}

    def batch(self, dataset: Any, indices: Tensor, step: Any) -> Any:
        return dataset[indices]

    def loss(self, model: nn.Module, batch: Any, step: Any) -> Any:  # type: ignore[override]
        import time

        time.sleep(0.02)
        if step.number % 3 == 0 and self.calls[-1] != step.number:
            self.warmth *= 0.9
            self.phase = Phase.LATER
            self.calls.append(step.number)
        self.seen.append((step.number, step.epoch, step.progress, self.warmth, self.phase))
        total, count = super().loss(model, batch)
        return total * (self.warmth + step.progress), count

    def evaluate(self, model: nn.Module, step: Any) -> dict[str, float]:  # type: ignore[override]
        found = super().evaluate(model)
        return {**found, "number": step.number, "epoch": step.epoch, "calls": len(self.calls)}


def test_a_task_is_told_where_it_is_and_its_state_travels() -> None:
    (lone,) = trained(1, functools.partial(fitted, Annealed()))
    assert lone.error == ""
    told = {number: entry for number, *entry in lone.log[1]}
    assert told[1] == [0, 0.0, 1.0, Phase.FIRST]
    assert told[STEPS][:2] == [EPOCHS - 1, (STEPS - 1) / STEPS]
    assert told[STEPS][2:] == [pytest.approx(0.9 ** (STEPS // 3)), Phase.LATER]
    run = functools.partial(fitted, Annealed())
    with workers(_follow, [run], [run], [run]) as (first, second, newcomer):
        with formed(1, [first, second]):
            while first.until(Progress).step < 5:
                pass
            for member in (first, second):
                member.send(Pause(1))
            for member in (first, second):
                assert member.until(Stopped).clean
            second.exit()
        with formed(2, [newcomer, first]):
            newcomer.until(Done)
        outcomes = [first.exit(), newcomer.exit()]
    assert [one.error for one in outcomes] == ["", ""]
    for outcome in outcomes:
        for number, *entry in outcome.log[1]:
            assert entry == told[number], f"step {number}"
    assert outcomes[1].log[0] == pytest.approx(lone.log[0], rel=1e-9)
    assert outcomes[1].log[0]["number"] == STEPS


class Counting(Words):
    """Changes an attribute while it trains, and has not said so."""

    calls = 0

    def __init__(self, how: str) -> None:
        super().__init__()
        self.center = torch.zeros(3)
        self.how = how

    def loss(self, model: nn.Module, batch: Any) -> Any:
        match self.how:
            case "count":
                self.calls += 1
            case "tensor":
                self.center = self.center * 0.9 + 1
            case "cache":
                if not hasattr(self, "mask"):
                    self.mask = torch.ones(3)
                self.calls = 0
        return super().loss(model, batch)


@pytest.mark.parametrize("how, name", [("count", "calls"), ("tensor", "center")])
def test_an_attribute_that_would_be_lost_is_refused_where_it_is_set(how: str, name: str) -> None:
    (outcome,) = trained(1, functools.partial(fitted, Counting(how)))
    assert outcome.error.startswith(f"Mistake: Counting.{name} changes while the task trains")
    assert f"def state(self): return {{'{name}': …}}" in outcome.error


def test_an_attribute_that_comes_and_stays_is_none_of_them() -> None:
    (outcome,) = trained(1, functools.partial(fitted, Counting("cache")))
    assert outcome.error == ""


def fitted_twice() -> int:
    from trainer import fit

    task = Words()
    fit(task)
    task.how = "something else"
    return len(fit(task))


def test_after_training_a_task_is_its_owners_again() -> None:
    assert alone(fitted_twice) == 4
