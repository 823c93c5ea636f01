"""Classifiers of pictures: a ResNet and a vision transformer, by name.

``resnet18``, ``resnet34`` and ``resnet50`` are those of He et al., Deep Residual Learning (2015),
with the stride of a bottleneck in its 3 x 3 convolution, and the last norm of each branch begun at
0 (Goyal et al., Accurate, Large Minibatch SGD, 2017). ``vit_tiny``, ``vit_small`` and ``vit_base``
are those of Touvron et al. (DeiT, 2020) with the mean of all patches in place of a token of their
own, and fixed positions (Beyer et al., Better plain ViT baselines, 2022).

Pictures come as bytes, [n, 3, size, size], and are normalised here, by ImageNet's mean and standard
deviation. Of small pictures (below 64 pixels) nothing is thrown away at the beginning: a ResNet's
first convolution has no stride, and a ViT's patches are of 4 pixels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.rundir.usererror import Unusable

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, from 0 to 1
SMALL = 64  # pixels
RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
VITS = {"vit_tiny": (192, 3), "vit_small": (384, 6), "vit_base": (768, 12)}  # width, heads
NAMES = (*RESNETS, *VITS)
DEPTH = 12  # layers of a ViT


def classifier(name: str, classes: int, size: int, width: int | None = None) -> nn.Module:
    """A new model, by its name.

    Args:
        name: one of ``NAMES``.
        classes: how many.
        size: pixels of a side.
        width: channels of a ResNet's first stage, or of a ViT; None for what its name stands for.

    Raises Unusable for another name, or a size that does not fit.
    """
    if name in RESNETS:
        return ResNet(RESNETS[name], classes, size < SMALL, name == "resnet50", width or 64)
    if name not in VITS:
        raise Unusable("SW5207", f"model is {name!r}; write one of {', '.join(NAMES)}")
    patch = 4 if size < SMALL else 16
    wide, heads = VITS[name]
    wide = width or wide
    if size % patch or wide % (4 * heads):
        raise Unusable(
            "SW5207",
            f"{name}: size is {size}, width {wide}; write multiples of {patch} and {4 * heads}",
        )
    return ViT(size, patch, wide, heads, classes)


class Normalised(nn.Module):
    """Bytes as numbers around 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            shaped = 255 * torch.tensor(values, device="cpu").view(3, 1, 1)
            self.register_buffer(name, shaped, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures.to(self.mean.dtype) - self.mean) / self.deviation


class Residual(nn.Module):
    """A branch of convolutions beside what it is given: two of 3 x 3, or a bottleneck."""

    def __init__(self, given: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            kernels = [(given, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        else:
            kernels = [(given, width, 3, stride), (width, out, 3, 1)]
        branch: list[nn.Module] = []
        for kernel in kernels:
            branch += [_convolution(*kernel), nn.BatchNorm2d(kernel[1]), nn.ReLU()]
        self.branch = nn.Sequential(*branch[:-1])
        nn.init.zeros_(cast(nn.BatchNorm2d, branch[-2]).weight)
        self.shortcut: nn.Module = nn.Identity()
        if given != out or stride > 1:
            self.shortcut = nn.Sequential(_convolution(given, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of residual blocks, each with half the resolution of the one before."""

    def __init__(
        self, blocks: tuple[int, ...], classes: int, small: bool, bottleneck: bool, width: int
    ) -> None:
        super().__init__()
        first = _convolution(3, width, 3, 1) if small else _convolution(3, width, 7, 2)
        stem: list[nn.Module] = [Normalised(), first, nn.BatchNorm2d(width), nn.ReLU()]
        if not small:
            stem.append(nn.MaxPool2d(3, 2, 1))
        self.stem = nn.Sequential(*stem)
        stages: list[nn.Module] = []
        given = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage and not block else 1
                stages.append(Residual(given, width << stage, stride, bottleneck))
                given = (width << stage) * (4 if bottleneck else 1)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(given, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(pictures)).mean((2, 3)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A transformer's layer: all patches look at each other, then each by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.looks = nn.Linear(width, 3 * width)
        self.seen = nn.Linear(width, width)
        self.mixer = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        many, patches, width = x.shape
        parts = self.looks(self.before(x)).view(many, patches, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.seen(seen.transpose(1, 2).reshape(many, patches, width))
        return x + self.mixer(x)  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Patches of a picture, and a transformer over them."""

    positions: Tensor

    def __init__(self, size: int, patch: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.normalised = Normalised()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.register_buffer("positions", _positions(size // patch, width), persistent=False)
        self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patches(self.normalised(pictures)).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.layers(x + self.positions)).mean(1))  # type: ignore[no-any-return]


def _convolution(given: int, out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(given, out, kernel, stride, kernel // 2, bias=False)


def _positions(side: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column: shape [side * side, width]."""
    rates = 10_000 ** -(torch.arange(width // 4, device="cpu") / (width // 4 - 1))
    angles = torch.arange(side, device="cpu")[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # [side, width / 2]
    rows = waves[:, None].expand(side, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], 2).reshape(side * side, width)
