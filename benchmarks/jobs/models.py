"""Models that people train, small enough for a processor: a GPT of 10 M and a ResNet-18."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS, LENGTH, VOCABULARY = 320, 8, 8, 64, 256
IMAGE, CLASSES = 32, 10


class Block(nn.Module):
    """Attention and a perceptron, each beside what skips it."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        layers = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
        self.mlp = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            one.view(batch, length, HEADS, -1).transpose(1, 2)
            for one in self.qkv(self.norm1(x)).split(x.shape[2], dim=2)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(x.shape))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class GPT(nn.Module):
    """10 million parameters, unless it is made wider or deeper; with tied embeddings."""

    def __init__(
        self,
        dropout: float,
        width: int = WIDTH,
        layers: int = LAYERS,
        vocabulary: int = VOCABULARY,
    ) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        out: Tensor = self.head(self.norm(self.blocks(x))).transpose(1, 2)
        return out


class Residual(nn.Module):
    """Two convolutions beside what skips them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.skip = nn.Sequential()
        if stride > 1:
            self.skip = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


def resnet18() -> nn.Module:
    """A ResNet-18 for small images, with batch normalisation."""
    widths = [64, 64, 128, 256, 512]
    blocks: list[nn.Module] = []
    for inner, outer in itertools.pairwise(widths):
        blocks += [Residual(inner, outer, 1 if inner == outer else 2), Residual(outer, outer, 1)]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)
    )


def tokens(samples: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the GPT: int64, shape [samples, LENGTH] each."""
    drawn = torch.randint(VOCABULARY, (samples, LENGTH + 1), generator=_seeded())
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


def images(samples: int) -> tuple[Tensor, Tensor]:
    """Images, shape [samples, 3, IMAGE, IMAGE], and their classes."""
    x = torch.randn(samples, 3, IMAGE, IMAGE, generator=_seeded())
    return x, torch.randint(CLASSES, (samples,), generator=_seeded())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
