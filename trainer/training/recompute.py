"""Modules whose activations are computed again in backward, and not kept: time for memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.engine.mistake import Mistake

LISTED = 8  # names that an error shows


def recompute(model: nn.Module, patterns: Iterable[str]) -> None:
    """From now on, modules of these names keep only what goes into them.

    Their random numbers are the same again, and names in the model's state stay what they are.

    Args:
        model: whose modules.
        patterns: names as ``named_modules()`` has them; ``*`` stands for anything, as in
            ``blocks.*``. Of modules within each other, the outermost ones count.

    Raises Mistake for a pattern that no module's name matches.
    """
    chosen: list[str] = []
    modules = dict(model.named_modules())
    for pattern in patterns:
        found = [name for name in modules if name and fnmatchcase(name, pattern)]
        if not found:
            known = ", ".join([name for name in modules if name][:LISTED])
            raise Mistake(
                "SW5144", f"recompute: no module is called {pattern!r}; there are {known}"
            )
        chosen += found
    for name in set(chosen):
        if not any(name.startswith(f"{other}.") for other in chosen):
            module = modules[name]
            module.forward = functools.partial(_again, module.forward)


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
