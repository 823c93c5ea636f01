"""A loss that is a mean over one worker's samples is told by where backward() begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.engine.mistake import Mistake
from trainer.engine.roots import Roots, divisors_in, require_divisors

SHARE, BATCH, TOKENS, CLASSES = 4, 8, 6, 3


def logits(samples: int = SHARE) -> Tensor:
    numbers = torch.linspace(-1, 1, samples * TOKENS * CLASSES)
    return numbers.view(samples, TOKENS, CLASSES).requires_grad_()


def targets(samples: int = SHARE) -> Tensor:
    return torch.arange(samples * TOKENS).view(samples, TOKENS) % CLASSES


def of_tokens(reduction: str, samples: int = SHARE) -> Tensor:
    flat = logits(samples).view(-1, CLASSES), targets(samples).flatten()
    return F.cross_entropy(*flat, reduction=reduction)


def scaled(loss: Tensor) -> Tensor:
    return torch.amp.GradScaler("cpu").scale(loss)


def in_autocast(reduction: str) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        flat = (logits() @ torch.eye(CLASSES)).view(-1, CLASSES)
        return F.cross_entropy(flat, targets().flatten(), reduction=reduction)


OWN: dict[str, Callable[[], Tensor]] = {
    "a mean": lambda: logits().square().mean(),
    "of tokens": lambda: of_tokens("mean"),
    "of sequences": lambda: F.cross_entropy(logits().transpose(1, 2), targets()),
    "of each sample's mean": lambda: logits().square().mean((1, 2)).mean(),
    "of each sample's sum": lambda: logits().square().sum((1, 2)).mean(0),
    "of logits": lambda: F.binary_cross_entropy_with_logits(logits(), torch.zeros_like(logits())),
    "beside another": lambda: 0.1 * logits().abs().sum() + logits().square().mean(),
    "divided": lambda: logits().square().sum() / SHARE,
    "accumulated": lambda: of_tokens("mean") / 4,
    "accumulated, of two": lambda: (of_tokens("mean") + 0.1 * logits().abs().sum()) / 4,
    "divided, and accumulated": lambda: logits().square().sum() / SHARE / 3,
    "scaled": lambda: scaled(of_tokens("mean")),
    "of two, scaled": lambda: scaled(0.1 * logits().abs().sum() + of_tokens("mean")),
    "of another precision": lambda: logits().square().mean().double(),
    "of tokens in autocast": lambda: in_autocast("mean"),
    "of tokens in autocast, scaled": lambda: scaled(in_autocast("mean")),
}
RIGHT: dict[str, Callable[[], Tensor]] = {
    "a sum by the batch": lambda: logits().square().sum() / BATCH,
    "tokens by the batch": lambda: of_tokens("sum") / BATCH,
    "a weighed mean": lambda: of_tokens("mean") * SHARE / BATCH,
    "of all samples, which are gathered": lambda: of_tokens("mean", samples=BATCH),
    "by another number": lambda: logits().square().sum() / 5,
    "a sum": lambda: of_tokens("sum"),
    "a mean by the number of such workers": lambda: of_tokens("mean") / (BATCH / SHARE),
    "its own sum by their number": lambda: logits().square().sum() / SHARE / (BATCH / SHARE),
    "a mean by a tensor's part": lambda: of_tokens("mean") * torch.tensor(float(SHARE)) / BATCH,
    "a weighed mean, divided": lambda: of_tokens("mean") * (SHARE / BATCH) / 4,
    "a weighed mean, scaled": lambda: scaled(of_tokens("mean") * (SHARE / BATCH)),
    "a mean, weighed by a tensor": lambda: of_tokens("mean") * torch.tensor(SHARE / BATCH),
    "a sum in autocast, scaled": lambda: scaled(in_autocast("sum") / BATCH),
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
    sum_again = of_tokens("mean") * torch.tensor(2.0**5)
    assert gone_back_from(sum_again, counted=True) is None


def tokens_mean(masked: int) -> Tensor:
    """Over tokens of which so many do not count."""
    mask = torch.ones(SHARE, TOKENS)
    mask.view(-1)[:masked] = 0.0
    losses = F.cross_entropy(logits().transpose(1, 2), targets(), reduction="none")
    return (losses * mask).sum() / mask.sum()


def ignored(masked: int) -> Tensor:
    chosen = targets().flatten()
    chosen[:masked] = -100
    return F.cross_entropy(logits().view(-1, CLASSES)[torch.arange(SHARE * TOKENS)], chosen)


def picked(masked: int) -> Tensor:
    return logits().square().flatten()[masked:].mean()


def by_parts(masked: int) -> Tensor:
    """The mean of a worker's tokens, weighed by its part of all: 30 of 40."""
    own = SHARE * TOKENS - masked
    return tokens_mean(masked) * (own / 40)


@pytest.mark.parametrize("loss", [tokens_mean, ignored, picked])
@pytest.mark.parametrize("more", [lambda one: one, scaled, lambda one: one / 2])
def test_what_ranks_divide_by_differently_is_told(
    loss: Callable[[int], Tensor], more: Callable[[Tensor], Tensor]
) -> None:
    told = [[*divisors_in(more(loss(masked)))] for masked in (1, 3)]
    with pytest.raises(Mistake, match=r"step 7: .* on rank 0 and by .* on rank 1, and gradients"):
        require_divisors(told, 7)
    with pytest.raises(Mistake, match=r"on rank 1 and by .* on rank 2"):
        require_divisors([[], *told], 7)
    require_divisors([told[0], told[0], []], 7)


@pytest.mark.parametrize(
    "loss",
    [
        by_parts,
        lambda masked: picked(masked) * (SHARE * TOKENS * CLASSES - masked) / 100.0,
        lambda masked: logits()[:masked].square().sum() / BATCH,
        lambda masked: logits()[:masked].square().sum(),
        lambda masked: logits().square().sum() * torch.tensor(1.0 + masked, requires_grad=True),
        lambda masked: logits()[:masked].square().sum() / BATCH + 0.1 * logits().abs().mean(),
    ],
)
def test_what_comes_to_the_same_is_let_be(loss: Callable[[int], Tensor]) -> None:
    one, other = ([*divisors_in(loss(masked))] for masked in (1, 3))
    assert one == pytest.approx(other)
    require_divisors([one, other], 7)


def test_a_rank_may_go_back_more_often_than_another() -> None:
    require_divisors([[8.0], [8.0, 8.0]], 7)
    with pytest.raises(Mistake, match="divided by 5 on rank 0 and by 3 on rank 1"):
        require_divisors([[5.0], [3.0, 4.0]], 7)


def test_what_is_divided_later_is_not_compared() -> None:
    roots = Roots()
    roots.watch(SHARE, BATCH)
    tokens_mean(1).backward()
    roots.require_sums(3, counted=False)
    assert roots.divisors == [SHARE * TOKENS - 1]
    roots.require_sums(3, counted=True)
    assert roots.divisors == []
    roots.watch(0, 0)  # without a data set
    tokens_mean(1).backward()
    roots.require_sums(3, counted=False)
    assert roots.divisors == [SHARE * TOKENS - 1]
    roots.watch(SHARE, BATCH, units=2)
    tokens_mean(1).backward()
    roots.forget()
    assert roots.divisors == []
