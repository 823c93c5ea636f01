"""What models and optimizers hold: their tensors by name, with digests, and their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.engine.digest import MASK, digest

_NUMBERS = (bool, int, float, str)


def tensors_of(
    models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], *, buffers: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that replicas have alike, by name.

    Args:
        models, optimizers: by their names.
        buffers: whether those of the models are among them.
    """
    names: dict[int, str] = {}
    for part, model in models.items():
        for name, parameter in model.named_parameters():
            names[id(parameter)] = f"{part}.{name}"
            yield f"{part}.{name}", parameter
        for name, buffer in model.named_buffers() if buffers else ():
            yield f"{part}.{name}", buffer
    for part, optimizer in optimizers.items():
        for owner, key, value in _kept(optimizer):
            of = "" if owner is None else f" of {names.get(id(owner), '?')}"
            for tensor in _inside(value):
                yield f"{part}: {key}{of}", tensor


def numbers_of(optimizer: Optimizer) -> list[tuple[Any, Any]]:
    """The plain numbers and texts that an optimizer keeps, with their keys, in its order."""
    return [(key, value) for _, key, value in _kept(optimizer) if type(value) in _NUMBERS]


def digests_of(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    """Each tensor's digest, by name; all of them come from a device in one copy."""
    named = [(name, digest(tensor)) for name, tensor in tensors]
    found = [0] * len(named)
    for device in {one.device for _, one in named}:
        places = [i for i, (_, one) in enumerate(named) if one.device == device]
        told = torch.stack([named[i][1] for i in places]).tolist()
        for place, value in zip(places, told, strict=True):
            found[place] = value & MASK
    return [(name, value) for (name, _), value in zip(named, found, strict=True)]


def _kept(optimizer: Optimizer) -> Iterator[tuple[Tensor | None, Any, Any]]:
    """What an optimizer keeps, as (parameter, key, value): of its parameters, then of no one."""
    table: Mapping[Any, Any] = optimizer.state
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = table.get(parameter, {})
            for key, value in sorted(kept.items()) if isinstance(kept, dict) else [("state", kept)]:
                yield parameter, key, value
    for key, value in table.items():
        if not isinstance(key, Tensor):
            yield None, key, value


def _inside(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _inside(one)
