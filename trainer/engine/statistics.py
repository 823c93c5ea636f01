"""What torch's modules keep of the batches they have seen: the same on all ranks after each step.

Each rank normalises by the batches that it computes itself, as in any data-parallel training, so
each sees other statistics; and spectral normalisation takes a step of its iteration in each forward
pass, of which ranks have different numbers. What a rank adds to such buffers travels with the
gradients, weighted by its part of the batch. So no rank's samples are lost, and a checkpoint does
not mix those of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


class Statistics:
    """The running statistics of some models, and the vectors of their spectral normalisation.

    Args:
        models: on their device.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._places = places_in(models)
        self._buffers: list[Tensor] = []
        self._before = torch.empty(0)

    def __len__(self) -> int:
        """How many numbers travel."""
        return sum(one.numel() for one in self._found())

    def begin(self) -> None:
        """A step begins: what comes now is what this rank adds."""
        self._buffers = self._found()
        if self._buffers:
            self._before = self._flat()

    def added(self, weight: float) -> list[float]:
        """What the step has added here, times this rank's ``weight``; all weights sum to 1."""
        if not self._buffers:  # none is kept: as in an InstanceNorm, by default
            return []
        added: list[float] = ((self._flat() - self._before) * weight).tolist()
        return added

    def settle(self, added: Sequence[float]) -> None:
        """Sets what all ranks together have added."""
        if not self._buffers:
            return
        before = self._before
        now = before + torch.tensor(added, dtype=before.dtype, device=before.device)
        sizes = [one.numel() for one in self._buffers]
        with torch.no_grad():
            for buffer, value in zip(self._buffers, now.split(sizes), strict=True):
                whole = not buffer.is_floating_point()  # how many batches it has seen
                buffer.copy_((value.round() if whole else value).view_as(buffer))

    def _found(self) -> list[Tensor]:
        found = (module._buffers[name] for module, name in self._places)
        return [buffer for buffer in found if buffer is not None]

    def _flat(self) -> Tensor:
        return torch.cat([one.flatten().to(torch.float64) for one in self._buffers])


def places_in(models: Iterable[nn.Module]) -> list[tuple[nn.Module, str]]:
    """The modules that have such buffers, and their names there."""
    modules = {id(one): one for model in models for one in model.modules()}.values()
    return [(one, name) for one in modules for name in _names_in(one)]


def _names_in(module: nn.Module) -> Iterator[str]:
    """The names of a module's own buffers that are such."""
    if isinstance(module, _NormBase | _SpectralNorm):
        yield from module._buffers
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            yield from (f"{hook.name}_u", f"{hook.name}_v")
