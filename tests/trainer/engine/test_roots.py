"""A loss that is a mean over one worker's samples is told by where backward() begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.engine.mistake import Mistake
from trainer.engine.roots import Roots

SHARE, BATCH, TOKENS, CLASSES = 4, 8, 6, 3


def logits(samples: int = SHARE) -> Tensor:
    numbers = torch.linspace(-1, 1, samples * TOKENS * CLASSES)
    return numbers.view(samples, TOKENS, CLASSES).requires_grad_()


def targets(samples: int = SHARE) -> Tensor:
    return torch.arange(samples * TOKENS).view(samples, TOKENS) % CLASSES


def of_tokens(reduction: str, samples: int = SHARE) -> Tensor:
    flat = logits(samples).view(-1, CLASSES), targets(samples).flatten()
    return F.cross_entropy(*flat, reduction=reduction)


OWN: dict[str, Callable[[], Tensor]] = {
    "a mean": lambda: logits().square().mean(),
    "of tokens": lambda: of_tokens("mean"),
    "of sequences": lambda: F.cross_entropy(logits().transpose(1, 2), targets()),
    "of each sample's mean": lambda: logits().square().mean((1, 2)).mean(),
    "of each sample's sum": lambda: logits().square().sum((1, 2)).mean(0),
    "of logits": lambda: F.binary_cross_entropy_with_logits(logits(), torch.zeros_like(logits())),
    "beside another": lambda: 0.1 * logits().abs().sum() + logits().square().mean(),
    "divided": lambda: logits().square().sum() / SHARE,
}
RIGHT: dict[str, Callable[[], Tensor]] = {
    "a sum by the batch": lambda: logits().square().sum() / BATCH,
    "tokens by the batch": lambda: of_tokens("sum") / BATCH,
    "a weighed mean": lambda: of_tokens("mean") * SHARE / BATCH,
    "of all samples, which are gathered": lambda: of_tokens("mean", samples=BATCH),
    "by another number": lambda: logits().square().sum() / 5,
    "a sum": lambda: of_tokens("sum"),
}


def gone_back_from(loss: Tensor, share: int = SHARE, counted: bool = False) -> str | None:
    """Why a loss is refused; None for one that is not."""
    roots = Roots()
    original: Any = torch.autograd.backward
    roots.watch(share, BATCH)
    try:
        loss.backward()
        roots.require_sums(3, counted)
    except Mistake as mistake:
        return str(mistake)
    finally:
        roots.forget()
        assert torch.autograd.backward is original
    return None


@pytest.mark.parametrize("name", OWN)
def test_a_mean_over_ones_own_samples_is_told(name: str) -> None:
    said = gone_back_from(OWN[name]())
    assert said is not None
    assert said.startswith("step 3: backward() begins at a ")


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_let_be(name: str) -> None:
    assert gone_back_from(RIGHT[name]()) is None


def test_who_has_the_whole_batch_may_take_its_mean() -> None:
    assert gone_back_from(logits(BATCH).square().mean(), share=BATCH) is None


def test_a_sum_may_be_divided_by_anything_where_it_is_counted() -> None:
    assert gone_back_from(OWN["divided"](), counted=True) is None
    assert gone_back_from(OWN["a mean"](), counted=True) is not None
