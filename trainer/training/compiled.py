"""A model that is compiled in its place: it stays the object, and its names what they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compile_in_place(model: nn.Module, backend: str) -> None:
    """From now on, calls of ``model`` are compiled: at the first one for each shape of its input.

    ``torch.compile(model)`` is another module, with other names in its state; and
    ``model.compile()`` does nothing for a module of torch's own, such as nn.Sequential.

    Args:
        model: stays the same object, with the same names in its state.
        backend: one of ``torch.compiler.list_backends()``.

    Raises nothing by itself: what cannot be compiled says so in its first call.
    """
    original = model.forward  # a bound method; its class is left alone

    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    model.forward = torch.compile(forward, backend=backend)
