"""A loss that is a mean over something else than samples is told by its graph."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.engine.mistake import Mistake
from trainer.training.samplemean import require_samples

TOKENS, CLASSES = 6, 3
LOGITS = torch.linspace(-1, 1, TOKENS * CLASSES).view(TOKENS, CLASSES).requires_grad_()
ALL = torch.arange(TOKENS) % CLASSES
PADDED = ALL.masked_fill(torch.arange(TOKENS) > 3, -100)
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])

MEANS_OVER_SAMPLES: dict[str, Callable[[], Tensor]] = {
    "all targets": lambda: F.cross_entropy(LOGITS, ALL),
    "smoothed": lambda: F.cross_entropy(LOGITS, ALL, label_smoothing=0.1) * 2,
    "summed and counted": lambda: F.cross_entropy(LOGITS, PADDED, reduction="sum"),
    "each by itself": lambda: F.cross_entropy(LOGITS, PADDED, reduction="none").sum(),
    "weighted, and counted": lambda: F.cross_entropy(LOGITS, ALL, weight=WEIGHTS, reduction="sum"),
    "weights that are 1": lambda: F.cross_entropy(LOGITS, ALL, weight=torch.ones(CLASSES)),
    "another loss": lambda: F.mse_loss(LOGITS, torch.zeros(TOKENS, CLASSES)),
    "no graph": lambda: torch.ones(()),
}
MEANS_OVER_OTHERS: dict[str, Callable[[], Tensor]] = {
    "padding ignored": lambda: F.cross_entropy(LOGITS, PADDED),
    "by a module": lambda: nn.CrossEntropyLoss()(LOGITS, PADDED),
    "of log probabilities": lambda: F.nll_loss(LOGITS.log_softmax(1), PADDED),
    "of sequences": lambda: F.cross_entropy(LOGITS.t().unsqueeze(0), PADDED.unsqueeze(0)),
    "weights of classes": lambda: F.cross_entropy(LOGITS, ALL, weight=WEIGHTS),
    "smoothed": lambda: F.cross_entropy(LOGITS, PADDED, label_smoothing=0.1),
    "one of two losses": lambda: 0.1 * LOGITS.square().mean() + 2 * F.cross_entropy(LOGITS, PADDED),
}


def refusal(loss: Tensor, step: int) -> str | None:
    """Why a task's loss is refused; None for one that is not."""
    try:
        require_samples(loss, step)
    except Mistake as mistake:
        return str(mistake)
    return None


@pytest.mark.parametrize("name", MEANS_OVER_SAMPLES)
def test_a_mean_over_samples_is_one(name: str) -> None:
    assert refusal(MEANS_OVER_SAMPLES[name](), step=1) is None


@pytest.mark.parametrize("name", MEANS_OVER_OTHERS)
def test_another_mean_is_refused(name: str) -> None:
    said = refusal(MEANS_OVER_OTHERS[name](), step=7)
    assert said is not None
    assert "step 7: loss() has returned a mean over 6 targets that" in said


def test_the_message_tells_what_counts() -> None:
    said = refusal(F.cross_entropy(LOGITS, PADDED), step=1)
    assert said is not None
    assert re.search(r"6 targets that count as 4 .* return \(sum, count\)", said)
