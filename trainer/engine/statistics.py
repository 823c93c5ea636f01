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
        self._before = torch.empty(0)
        self._units = 0
        self._unit: int | None = None  # the one that is being computed
        self._sum = torch.empty(0)

    def __len__(self) -> int:
        """How many numbers travel."""
        return sum(buffer.numel() for _, _, buffer in self._there())

    def begin(self, units: int = 0) -> None:
        """A step begins: what comes now is what this rank adds.

        Args:
            units: of the step, over all ranks; 0 if it is not computed by units.
        """
        self._found = self._there()
        if not self._found:  # none is kept: as in an InstanceNorm, by default
            return
        self._before = self._flat()
        self._units = units
        self._unit = None
        self._sum = torch.zeros_like(self._before) if units else self._sum

    def begin_unit(self, number: int) -> None:
        """What comes now is what unit ``number`` of the step, from 0, adds."""
        if self._found:
            if self._unit is not None:
                self._close_unit()
                self._set(self._before)
            self._unit = number

    def added(self, weight: float) -> list[float]:
        """What the step has added here; over all ranks it adds up to what they have together.

        Args:
            weight: this rank's, if it is not computed by units; all weights sum to 1.
        """
        if not self._found:
            return []
        if not self._units:
            return list(((self._flat() - self._before) * weight).tolist())
        self._close_unit()
        return list(self._sum.tolist())

    def settle(self, added: Sequence[float]) -> None:
        """Sets what all ranks together have added."""
        if self._found:
            before = self._before
            self._set(before + torch.tensor(added, dtype=before.dtype, device=before.device))

    def _close_unit(self) -> None:
        if self._unit is None:
            return
        weights = [_weight(one, name, self._unit, self._units) for one, name, _ in self._found]
        sizes = torch.tensor([one.numel() for _, _, one in self._found], dtype=torch.int64)
        spread = torch.tensor(weights, dtype=torch.float64, device="cpu").repeat_interleave(sizes)
        self._sum += (self._flat() - self._before) * spread.to(self._before.device)
        self._unit = None

    def _set(self, values: Tensor) -> None:
        sizes = [one.numel() for _, _, one in self._found]
        with torch.no_grad():
            for (_, _, buffer), value in zip(self._found, values.split(sizes), strict=True):
                whole = not buffer.is_floating_point()  # how many batches it has seen
                buffer.copy_((value.round() if whole else value).view_as(buffer))

    def _there(self) -> list[tuple[nn.Module, str, Tensor]]:
        found = ((module, name, module._buffers[name]) for module, name in self._places)
        return [(module, name, buffer) for module, name, buffer in found if buffer is not None]

    def _flat(self) -> Tensor:
        return torch.cat([one.flatten().to(torch.float64) for _, _, one in self._found])


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
