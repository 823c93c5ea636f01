"""What both sides train: a model, its optimizers and schedules, and the data. All in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.checkpoint import checkpoint

from tests.conformance.cases import Case
from tests.conformance.optimizers import optimizers

WIDTH = 6
BATCH = 8  # three ranks have 3, 3 and 2 samples, in parts of at most 2 when they accumulate
MICRO = 2
STEPS_PER_EPOCH = 3
EPOCHS = 3
STEPS = EPOCHS * STEPS_PER_EPOCH
LATE = 1  # the epoch in which parameters are thawed, added or frozen
CLIP = 0.3
RARE = 1.0  # what a sample's first feature exceeds if it takes the expert that few do


class Block(nn.Module):
    """A layer with what skips it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        return h + torch.tanh(self.linear(h))


class Net(nn.Module):
    """A small model with everything that a case asks for.

    Attributes:
        late: what is trained from another epoch on, or is not any more.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._recomputation = case.recomputation
        self._turns = 3 if case.parameters == "shared" else 1
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(1 if case.parameters == "shared" else 2))
        self.last = nn.Linear(WIDTH, WIDTH)
        self.late: list[Tensor] = []
        match case.parameters:
            case "frozen":
                self.first.requires_grad_(False)
                self.last.bias.requires_grad_(False)
            case "unused":
                self.spare = Block()
            case "routed":
                self.rare, self.usual = Block(), Block()
            case "tied":
                self.last.weight = self.first.weight
            case "thawed":
                self.late = list(self.blocks[0].requires_grad_(False).parameters())
            case "added":
                self.late = [self.first.weight]
                self.first.weight.requires_grad_(False)
            case "refrozen":
                self.late = list(self.blocks[0].parameters())

    def forward(self, x: Tensor) -> Tensor:
        if self._recomputation in ("whole", "nested"):
            return _reentrant(self._layers, x)
        return self._layers(x)

    def _layers(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        for _ in range(self._turns):
            for block in self.blocks:
                h = self._through(block, h)
        if hasattr(self, "rare"):
            few = x[:, 0] > RARE
            for expert, chosen in ((self.rare, few), (self.usual, ~few)):
                if chosen.any():
                    h = h.index_put((chosen,), self._through(expert, h[chosen]))
        out: Tensor = self.last(h)
        return out

    def _through(self, block: nn.Module, h: Tensor) -> Tensor:
        out: Tensor
        match self._recomputation:
            case "reentrant" | "nested":
                return _reentrant(block, h)
            case "nonreentrant":
                out = checkpoint(block, h, use_reentrant=False)
            case _:
                out = block(h)
        return out


def _reentrant(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # Without an input that needs a gradient, what is recomputed gets none.
    x = x if x.requires_grad or not torch.is_grad_enabled() else x.detach().requires_grad_()
    out: Tensor = checkpoint(function, x, use_reentrant=True)
    return out


@dataclass(frozen=True)
class Parts:
    """What is trained, and by what.

    Attributes:
        optimizers: one, or two that share the parameters.
        schedules: one for each optimizer, if the case has them.
    """

    model: Net
    optimizers: list[Optimizer]
    schedules: list[LRScheduler]


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        parameters: by name.
        losses: by the number of the step, from 1.
    """

    parameters: dict[str, Tensor]
    losses: dict[int, float]


def build(case: Case) -> Parts:
    """Returns the same parts for the same case, in every process."""
    torch.manual_seed(case.seed)
    model = Net(case).double()
    later = {id(one) for one in model.late} if case.parameters == "added" else set()
    named = [(name, one) for name, one in model.named_parameters() if id(one) not in later]
    made = optimizers(case.optimizer, named, case.groups)
    schedules: list[LRScheduler] = []
    if case.schedule:
        schedules = [StepLR(one, step_size=2, gamma=0.7) for one in made]
    return Parts(model, made, schedules)


def data(case: Case) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets, shape [samples, WIDTH] each."""
    samples = BATCH * (STEPS_PER_EPOCH - 1) + (1 if case.short else BATCH)
    generator = torch.Generator().manual_seed(case.seed)
    x = torch.randn(samples, WIDTH, generator=generator, dtype=torch.float64)
    return x, x.roll(1, dims=1).sin()


def trained(model: Net, losses: dict[int, float]) -> Trained:
    """What came of it, apart from the model that is trained on."""
    return Trained({name: p.detach().clone() for name, p in model.named_parameters()}, losses)
