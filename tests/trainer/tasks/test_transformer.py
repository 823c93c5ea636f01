"""The transformer is what its names say, and its operations are counted right."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.tasks.transformer import (
    SIZES,
    Activation,
    Attention,
    Perceptron,
    Size,
    Transformer,
    flops_per_token,
    rotated,
    rotations,
)

SMALL = Size(2, 32, 4, 2)
VOCABULARY = 11


def made(activation: Activation = "swiglu", tied: bool = True, size: Size = SMALL) -> Transformer:
    torch.manual_seed(0)
    return Transformer(size, VOCABULARY, activation, tied).to(torch.float64)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_has_as_many_parameters_as_its_name_says(name: str) -> None:
    amount, unit = float(name[:-1]), {"m": 1e6, "b": 1e9}[name[-1]]
    with torch.device("meta"):
        model = Transformer(SIZES[name], 257 if amount * unit < 1e8 else 50_304)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(amount * unit, rel=0.05)


def test_a_token_sees_those_before_it_and_no_later_one() -> None:
    model = made()
    tokens = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[:, 7] = (other[:, 7] + 1) % VOCABULARY
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :7], after[:, :7])
    assert all((before[:, at] - after[:, at]).abs().max() > 1e-6 for at in range(7, 12))


def test_attention_depends_on_how_far_tokens_are_apart_and_not_on_where_they_are() -> None:
    cos, sin = rotations(40, 8, torch.device("cpu"))
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).double()

    def product(at: int, to: int) -> float:
        return float(rotated(q, cos[at], sin[at]) @ rotated(k, cos[to], sin[to]))

    assert product(5, 2) == pytest.approx(product(33, 30), abs=1e-6)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-2)
    assert rotated(q, cos[9], sin[9]).norm() == pytest.approx(float(q.norm()), rel=1e-6)


def test_attention_is_that_of_groups_with_normalised_queries_and_keys() -> None:
    torch.manual_seed(3)
    attention = Attention(SMALL).double()
    x = torch.randn(2, 6, 32, dtype=torch.float64)
    cos, sin = rotations(6, 8, torch.device("cpu"))
    heads = attention.qkv(x).view(2, 6, 8, 8)
    seen = []
    for head in range(4):  # two queries to a key; in words of one head at a time
        q, k, v = heads[:, :, head], heads[:, :, 4 + head // 2], heads[:, :, 6 + head // 2]
        q, k = (
            rotated(one / one.square().mean(-1, keepdim=True).sqrt(), cos, sin) for one in (q, k)
        )
        scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(
            torch.ones(6, 6).triu(1).bool(), -torch.inf
        )
        seen.append(scores.softmax(-1) @ v)
    expected = attention.out(torch.cat(seen, dim=-1))
    assert torch.allclose(attention(x, cos, sin), expected, atol=1e-9)


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_the_perceptrons(activation: Activation) -> None:
    torch.manual_seed(4)
    one = Perceptron(SMALL, activation).double()
    x = torch.randn(3, 32, dtype=torch.float64)
    if activation == "swiglu":
        gate, up = one.up.weight.split(SMALL.hidden)
        inside = F.silu(x @ gate.T) * (x @ up.T)
    else:
        inside = (x @ one.up.weight.T).clamp(min=0) ** 2
    assert torch.allclose(one(x), inside @ one.down.weight.T)


def test_a_tied_model_has_one_matrix_and_another_has_two() -> None:
    tied, untied = made(), made(tied=False)
    assert tied.head.weight is tied.token.weight
    assert untied.head.weight is not untied.token.weight
    counts = [sum(p.numel() for p in one.parameters()) for one in (tied, untied)]
    assert counts[1] - counts[0] == VOCABULARY * SMALL.width


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_the_formula_counts_what_torch_counts(activation: Activation, tied: bool) -> None:
    size, length, batch = Size(3, 64, 4, 2), 48, 2
    model = made(activation, tied, size)
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens).sum().backward()
    norms = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.RMSNorm))
    # The counter leaves out what is no product of matrices.
    expected = batch * length * (flops_per_token(model, size, length) - 6 * norms)
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [Size(1, 32, 3, 1), Size(1, 32, 4, 3), Size(1, 12, 4, 1)])
def test_heads_that_do_not_divide_are_refused(size: Size) -> None:
    with pytest.raises(ValueError, match="heads must divide"):
        Transformer(size, VOCABULARY)


def test_in_bf16_queries_keys_and_values_are_of_one_kind() -> None:
    model = made().float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.zeros(1, 5, dtype=torch.int64))
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()
