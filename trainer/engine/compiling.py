"""What the engine has to know of torch.compile.

Compiled code has in it what the hooks of its modules do; a number that one of them counts would
have it compiled anew at each call, and after a few times not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


def compiles() -> bool:
    """Whether this process has asked torch to compile anything."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return any(one is not None for one in getattr(frames, "cached_backends", {}).values())


def once_compiled(function: Callable[[], None]) -> Callable[[], None]:
    """Has a function called when a call of it is compiled, and left out of what is compiled."""
    constant: Any = function
    constant._dynamo_marked_constant = True  # what torch.compiler.assume_constant_result sets
    return function


def computed() -> int:
    """Another number than before if something was computed for a backward pass, compiled or not."""
    autograd: Any = torch.autograd
    return int(autograd._get_sequence_nr())


def apart(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Has a hook left out of what is compiled; where nothing is, a call of it costs no more."""
    disabled: Any = torch.compiler.disable(hook)

    def called(*args: Any) -> Any:
        return disabled(*args) if torch.compiler.is_compiling() else hook(*args)

    return called
