"""What torch's modules keep of the batches they have seen: the same on all ranks after each step.

Each rank normalises by the batches that it computes itself, as in any data-parallel training, so
each sees other statistics; and spectral normalisation takes a step of its iteration in each forward
pass, of which ranks have different numbers. What a rank adds to such buffers travels with the
gradients, weighted by its part of the batch. So no rank's samples are lost, and a checkpoint does
not mix those of several.

By units, each begins with what there was before the step, and what they have added is combined in
the order of units: to what a plain loop would have that takes one after another, whoever has
computed which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import is_

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

Place = tuple[nn.Module, str]


class Statistics:
    """The running statistics of some models, and the vectors of their spectral normalisation.

    Args:
        models: on their device.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._places = places_in(models)
        self._found: list[tuple[nn.Module, str, Tensor]] = []
        self._before = self._now = Row([])  # the step, and when it was asked last
        self._units = 0
        self._unit: int | None = None  # the one that is being computed
        self._sum = torch.empty(0)

    def __len__(self) -> int:
        """How many numbers travel."""
        return sum(buffer.numel() for _, _, buffer in self._there()) if self._places else 0

    def begin(self, units: int = 0) -> None:
        """A step begins: what comes now is what this rank adds.

        Args:
            units: of the step, over all ranks; 0 if it is not computed by units.
        """
        found = self._there()
        if not found:  # none is kept: as in an InstanceNorm, by default
            self._found = found
            return
        buffers = [buffer for _, _, buffer in found]
        if not self._now.fits(buffers):
            self._before, self._now = Row(buffers), Row(buffers)
        self._found = found
        self._before.read()
        self._units = units
        self._unit = None
        self._sum = torch.zeros_like(self._before.numbers) if units else self._sum

    def begin_unit(self, number: int) -> None:
        """What comes now is what unit ``number`` of the step, from 0, adds."""
        if self._found:
            if self._unit is not None:
                self._close_unit()
                self._before.write()
            self._unit = number

    def added(self, weight: float) -> list[float]:
        """What the step has added here; over all ranks it adds up to what they have together.

        Args:
            weight: this rank's, if it is not computed by units; all weights sum to 1.
        """
        if not self._found:
            return []
        if not self._units:
            return list((self._added() * weight).tolist())
        self._close_unit()
        return list(self._sum.tolist())

    def settle(self, added: Sequence[float]) -> None:
        """Sets what all ranks together have added."""
        if self._found:
            before = self._before.numbers
            self._now.set(before + torch.tensor(added, dtype=before.dtype, device=before.device))

    def _close_unit(self) -> None:
        if self._unit is None:
            return
        weights = [_weight(one, name, self._unit, self._units) for one, name, _ in self._found]
        self._sum += self._added() * self._now.spread(weights)
        self._unit = None

    def _added(self) -> Tensor:
        self._now.read()
        return self._now.numbers - self._before.numbers

    def _there(self) -> list[tuple[nn.Module, str, Tensor]]:
        found = ((module, name, module._buffers[name]) for module, name in self._places)
        return [(module, name, buffer) for module, name, buffer in found if buffer is not None]


class Row:
    """The numbers of some tensors, one after another: they are many and small, and read at once.

    Args:
        tensors: on one device.

    Attributes:
        numbers: float64, shape [n].
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        device = tensors[0].device if tensors else "cpu"
        self._tensors = tensors
        sizes = [one.numel() for one in tensors]
        self._sizes = torch.tensor(sizes, dtype=torch.int64, device="cpu")
        self.numbers = torch.empty(sum(sizes), dtype=torch.float64, device=device)
        split = zip(tensors, self.numbers.split(sizes), strict=True)
        self._views = [numbers.view(one.shape) for one, numbers in split]
        whole = [not one.is_floating_point() for one in tensors]  # how many batches it has seen
        self._whole = self.spread(whole) if any(whole) else None

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the tensors."""
        return len(tensors) == len(self._tensors) and all(map(is_, tensors, self._tensors))

    def spread(self, values: Sequence[float]) -> Tensor:
        """A value for each tensor, in the place of each of its numbers."""
        each = torch.tensor(values, dtype=torch.float64, device="cpu")
        return each.repeat_interleave(self._sizes).to(self.numbers.device)

    def read(self) -> None:
        """Takes the numbers from the tensors."""
        with torch.no_grad():
            torch._foreach_copy_(self._views, self._tensors)

    def write(self) -> None:
        """Gives the tensors their numbers, which were read."""
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._views)

    def set(self, numbers: Tensor) -> None:
        """Gives the tensors other numbers; integers are rounded to."""
        if self._whole is not None:
            numbers = torch.where(self._whole > 0, numbers.round(), numbers)
        self.numbers.copy_(numbers)
        self.write()


def places_in(models: Iterable[nn.Module]) -> list[Place]:
    """The buffers of some models that are statistics, by module and name."""
    modules = {id(one): one for model in models for one in model.modules()}.values()
    return [(one, name) for one in modules for name in _names_in(one)]


def _weight(module: nn.Module, name: str, unit: int, units: int) -> float:
    """By how much what a unit has added counts, when all units of a step are combined.

    A running mean forgets the part ``momentum`` of itself with every unit that follows; without a
    momentum it is the mean over all batches, of which there were ``seen`` before the step. Batches
    are counted; and the iteration of spectral normalisation, which is alike in all units, is taken
    once.
    """
    if not isinstance(module, _NormBase):
        return 1 / units
    if name == "num_batches_tracked":
        return 1.0
    if module.momentum is not None:
        return float((1 - module.momentum) ** (units - 1 - unit))
    assert module.num_batches_tracked is not None
    seen = int(module.num_batches_tracked)
    return seen / (seen - 1 + units)  # it has counted this unit by now


def _names_in(module: nn.Module) -> Iterator[str]:
    """The names of a module's own buffers that are such."""
    if isinstance(module, _NormBase | _SpectralNorm):
        yield from module._buffers
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            yield from (f"{hook.name}_u", f"{hook.name}_v")
