"""A model that is compiled in its place: it stays the object, and its names what they are."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

BACKEND = "inductor"  # torch.compile's own choice


def compile_in_place(model: nn.Module, asked: Literal[True] | str) -> None:
    """From now on, calls of ``model`` are compiled: at the first one for each shape of its input.

    ``torch.compile(model)`` is another module, with other names in its state; and
    ``model.compile()`` does nothing for a module of torch's own, such as nn.Sequential.

    Args:
        model: stays the same object, with the same names in its state.
        asked: True, or one of ``torch.compiler.list_backends()``.

    Raises torch's InvalidBackend for a backend that there is not; whatever else cannot be compiled
    says so in the first call.
    """
    original = model.forward  # a bound method; its class is left alone

    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    backend = BACKEND if asked is True else asked
    model.forward = torch.compile(forward, backend=backend)
