"""A task's loss is tried with some samples, and with two parts of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.engine.mistake import Mistake
from trainer.training.apart import require_mean
from trainer.training.kept import Kept

SAMPLES = 12
X = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.arange(SAMPLES) % 4 + 1
MASKS = (torch.arange(4) < LENGTHS.unsqueeze(1)).float()

MEANS: dict[str, Callable[[Tensor], Any]] = {
    "a mean": lambda i: X[i].square().mean(),
    "counted": lambda i: ((X[i].square() * MASKS[i]).sum(), MASKS[i].sum()),
    "with a penalty": lambda i: X[i].abs().mean() + 3.0,
    "of differences": lambda i: (X[i] - X[i].roll(1, 1)).mean(),
    "of what cancels out": lambda i: 1e5 * (X[i].abs().log() - X[i].abs().log().roll(1, 1)).mean(),
    "not a number": lambda i: X[i].sum() * torch.nan,
    "random": lambda i: (X[i] + torch.randn(len(i), 4)).sum(),
}
OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda i: X[i].square().sum(),
    "masked": lambda i: (X[i].square() * MASKS[i]).sum() / MASKS[i].sum(),
    "of pairs": lambda i: F.cross_entropy(X[i] @ X[i].t(), torch.arange(len(i))),
    "a root of a mean": lambda i: X[i].square().mean().sqrt(),
    "an overlap": lambda i: 1 - (X[i].sigmoid() * MASKS[i]).sum() / (X[i].sigmoid() + 1).sum(),
    "of the largest": lambda i: X[i].abs().flatten().topk(2 * len(i)).values.mean(),
    "of a spread": lambda i: X[i].std(0).mean(),
}


def refusal(loss: Callable[[Tensor], Any], samples: int = SAMPLES) -> str:
    """Why a loss is refused; "" for one that is not."""
    try:
        require_mean(loss, torch.arange(samples), coarse=False)
    except Mistake as mistake:
        return str(mistake)
    return ""


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_samples_is_one(name: str) -> None:
    assert refusal(MEANS[name]) == ""


@pytest.mark.parametrize("samples", [4, 8, SAMPLES])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_none_is_told(name: str, samples: int) -> None:
    assert "it is no mean over samples" in refusal(OTHERS[name], samples)


def test_of_one_sample_nothing_can_be_told() -> None:
    assert refusal(OTHERS["a sum"], samples=1) == ""


def test_in_a_low_precision_only_what_is_far_apart_is_told() -> None:
    def off(samples: Tensor) -> Tensor:
        return X[samples].square().mean() * (1 + 0.01 * len(samples))

    with pytest.raises(Mistake, match=r"^loss\(\) gives "):
        require_mean(off, torch.arange(4), coarse=False)
    require_mean(off, torch.arange(4), coarse=True)


CALLS = {"loss": 0}
TOTAL = 0


class Holder:
    """Keeps numbers, and generators of its own."""

    calls = 0
    batches: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        import random

        import numpy as np

        self.seen = [1.0]
        self.torchs = torch.Generator().manual_seed(1)
        self.numpys = np.random.default_rng(1)
        self.legacy = np.random.RandomState(1)
        self.pythons = random.Random(1)

    def draw(self) -> list[float]:
        self.seen.append(2.0)
        drawn = [float(torch.rand((), generator=self.torchs)), self.numpys.random()]
        return [*self.seen, *drawn, self.legacy.random_sample(), self.pythons.random()]


def test_what_a_trial_draws_and_counts_is_put_back() -> None:
    task, module = Holder(), nn.Linear(1, 1)
    kept = Kept(task, [module])
    first = task.draw()
    assert first != task.draw()
    kept.put_back()
    assert task.draw() == first


def test_so_is_what_all_of_its_class_or_file_share() -> None:
    def count() -> tuple[int, int, int, int]:
        global TOTAL
        TOTAL += 1
        CALLS["loss"] += 1
        Holder.calls += 1
        Holder.batches.append(X)
        return TOTAL, CALLS["loss"], Holder.calls, len(Holder.batches)

    before = count()
    kept = Kept(Holder())
    count()
    kept.put_back()
    assert count() == tuple(one + 1 for one in before)
