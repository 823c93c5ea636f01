"""A model's buffers, by their paths: those that its ``state_dict`` leaves out travel, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def load_buffers(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Sets buffers by their names; one of another shape is a cache that has grown elsewhere.

    Args:
        model: whose they are.
        buffers: by path, as ``transient_buffers`` gave them, here or elsewhere.

    Raises AttributeError for a path whose module the model does not have.
    """
    with torch.no_grad():
        for path, value in buffers.items():
            owner, _, name = path.rpartition(".")
            module = model.get_submodule(owner)
            own = getattr(module, name, None)
            if own is not None and own.shape == value.shape:
                own.copy_(value)
            else:
                if name not in module._buffers:  # made in a forward pass that was not here yet
                    module.register_buffer(name, None, persistent=False)
                module._buffers[name] = value.clone()


def transient_buffers(module: nn.Module) -> dict[str, Any]:
    """The buffers that ``state_dict`` leaves out (``persistent=False``)."""
    persistent = module.state_dict().keys()
    return {name: one for name, one in module.named_buffers() if name not in persistent}
