"""Hooks of a program's on its parameters that change gradients: on each worker those of its own.

One that scales or masks a gradient does the same to a sum as to what is summed. One that clips it
does not, and would depend on how the batch was split. In the steps that are examined, each hook
that has changed a gradient is asked once more, for twice the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.engine.mistake import Mistake


class ParameterHooks:
    """Watches the hooks of some parameters, in one step at a time.

    Args:
        name: names a parameter, for errors.
    """

    def __init__(self, name: Callable[[Tensor], str]) -> None:
        self._name = name
        self._watched: list[tuple[dict[int, Any], int, Any]] = []

    def watch(self, parameters: Iterable[Tensor]) -> None:
        """A step begins."""
        self.forget()
        for parameter in parameters:
            hooks: Any = parameter._backward_hooks or {}
            for key, hook in list(hooks.items()):
                hooks[key] = self._watching(hook, parameter)
                self._watched.append((hooks, key, hook))

    def forget(self) -> None:
        """The hooks are the program's own again."""
        while self._watched:
            hooks, key, hook = self._watched.pop()
            if key in hooks:
                hooks[key] = hook

    def _watching(self, hook: Any, parameter: Tensor) -> Callable[[Tensor], Any]:
        def watched(gradient: Tensor) -> Any:
            before = gradient.detach().clone()
            found = hook(gradient)
            changed = gradient if found is None else found
            if torch.equal(before, changed.detach()):
                return found
            kept, twice = changed.detach().clone(), 2 * before
            again = hook(twice)
            again = twice if again is None else again
            if not torch.allclose(again.detach(), 2 * kept, equal_nan=True):
                raise Mistake(
                    "SW5169",
                    f"a hook of {self._name(parameter)} changes its gradient otherwise than by a "
                    "factor, as by clipping it, and sees that of some samples of one worker, so "
                    "it would depend on how the batch was split; do it after backward(), or the "
                    "loop over split(), when gradients are summed (nn.utils.clip_grad_value_)",
                )
            return found

        return watched
