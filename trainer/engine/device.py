"""Where a worker computes, the GPU of its slot or the CPU, and how it warms up for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.engine.digest import digest_of


def warm_up() -> None:
    """Takes an optimizer step: at a process's first, torch imports seconds' worth of modules."""
    parameter = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    parameter.sum().backward()
    optimizer.step()


def device_of(slot: int) -> torch.device:
    """The device of a machine's worker number ``slot``; it becomes torch's current one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", slot)
    torch.cuda.set_device(device)
    return device


def kind_of(device: torch.device) -> int:
    """The kind of a device, as a number below 2**52: alike ones round alike."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
    return digest_of(name) >> 12


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """``batch``, a tensor or dicts, lists and tuples of tensors, on ``device``.

    With ``channels_last``, those of four dimensions, images, have their channels last in memory.
    """

    def moved(one: Tensor) -> Tensor:
        if channels_last and one.ndim == 4:
            return one.to(device, non_blocking=True, memory_format=torch.channels_last)
        return one.to(device, non_blocking=True)

    return mapped(moved, batch)


def mapped(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """A batch with what ``function`` returns in place of each tensor; see ``to_device``."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {key: mapped(function, value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [mapped(function, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch
