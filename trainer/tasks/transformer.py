"""A decoder-only transformer as they are built today, in straight lines.

Rotary positions (RoPE), root mean squares for norms, attention of several queries to one key (GQA)
whose queries and keys are normalised (QK norm), and a gated perceptron (SwiGLU) or a squared one.
It has no biases, and no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["swiglu", "relu2"]
BASE = 10_000.0  # of the rotations' wavelengths
STD = 0.02  # of the initial weights


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        layers: blocks, one after another.
        width: numbers that stand for a token between them.
        heads: of the queries; each has width / heads numbers.
        kv_heads: of the keys and values; it divides ``heads``.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int

    @property
    def hidden(self) -> int:
        """Numbers inside a gated perceptron: 8/3 of the width, so three matrices count as two."""
        return -(-self.width * 8 // 3 // 64) * 64


# By their parameters: the first three with bytes for tokens, the others with the 50,304 of GPT-2.
SIZES = {
    "1m": Size(5, 128, 4, 2),
    "10m": Size(6, 384, 6, 2),
    "30m": Size(11, 512, 8, 2),
    "124m": Size(12, 768, 12, 12),
    "350m": Size(26, 1024, 16, 8),
    "760m": Size(27, 1536, 12, 4),
    "1b": Size(20, 2048, 16, 4),
    "1.5b": Size(32, 2048, 16, 4),
}


class Attention(nn.Module):
    """Each token looks at those before it, and at itself."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.kv_heads = size.heads, size.kv_heads
        self.head = size.width // size.heads
        self.qkv = nn.Linear(size.width, (size.heads + 2 * size.kv_heads) * self.head, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.head).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = (rotated(F.rms_norm(one, (self.head,)), cos, sin).to(v.dtype) for one in (q, k))
        if self.kv_heads < self.heads:  # as SDPA's enable_gqa, which not every kernel has
            k, v = (one.repeat_interleave(self.heads // self.kv_heads, dim=1) for one in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return out


class Perceptron(nn.Module):
    """What is done with each token by itself."""

    def __init__(self, size: Size, activation: Activation) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        hidden = size.hidden if self.gated else 4 * size.width
        self.up = nn.Linear(size.width, hidden * (1 + self.gated), bias=False)
        self.down = nn.Linear(hidden, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = F.silu(gate) * x
        else:
            x = F.relu(x).square()
        out: Tensor = self.down(x)
        return out


class Block(nn.Module):
    """Attention and a perceptron, each beside what skips it."""

    def __init__(self, size: Size, activation: Activation) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(size.width), nn.RMSNorm(size.width)
        self.attention = Attention(size)
        self.perceptron = Perceptron(size, activation)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        out: Tensor = x + self.perceptron(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Predicts the next token.

    Args:
        size: how large it is.
        vocabulary: how many tokens there are.
        activation: of its perceptrons.
        tied: whether the embedding and the last layer are one matrix.

    Raises ValueError for heads that do not divide the width, or each other.
    """

    def __init__(
        self, size: Size, vocabulary: int, activation: Activation = "swiglu", tied: bool = True
    ) -> None:
        super().__init__()
        if size.width % (2 * size.heads) or size.heads % size.kv_heads:
            raise ValueError(f"{size}: heads must divide the width, and kv_heads the heads")
        self.head_width = size.width // size.heads
        self.token = nn.Embedding(vocabulary, size.width)
        self.blocks = nn.ModuleList(Block(size, activation) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # what adds to the stream adds less, the more blocks there are
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=STD / (2 * size.layers) ** 0.5 if adds else STD)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the tokens after ``tokens`` (int64, [batch, length]): [batch, length, V]."""
        cos, sin = rotations(tokens.shape[1], self.head_width, tokens.device)
        x = self.token(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def rotations(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each place's angles, float32, shape [length, width / 2].

    The source: Su et al., RoFormer, section 3.4 (arxiv.org/abs/2104.09864).
    """
    fractions = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    places = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(places, BASE**-fractions)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs of numbers, one of each half, by their place's angles."""
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


def flops_per_token(model: Transformer, size: Size, length: int) -> float:
    """Floating-point operations of a token, forward and backward: 6 N + 12 L W T.

    N are the parameters but the embedding, which is looked up and not multiplied; where it is the
    last layer, too, it counts once. Recomputation does not count. The source: Chowdhery et al.,
    PaLM, appendix B (arxiv.org/abs/2204.02311). It counts attention to all places, not only to
    those before; figures of others do so, too.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    if model.head.weight is not model.token.weight:
        total -= model.token.weight.numel()
    return 6.0 * total + 12.0 * size.layers * size.width * length
