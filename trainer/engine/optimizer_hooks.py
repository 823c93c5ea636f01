"""Hooks of all optimizers of this process: they step in a step's block, once their gradients are.

They come before those that the program has set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trainer.engine.compiling import apart
from trainer.engine.state import State
from trainer.engine.step import Step
from trainer.engine.trained import Trained


class OptimizerHooks:
    """The hooks of one loop.

    Args:
        state: whose optimizers are meant.
        trained: knows which those are.
        step: gives the running step; None where there is none.
    """

    def __init__(self, state: State, trained: Trained, step: Callable[[], Step | None]) -> None:
        self._state = state
        self._trained = trained
        self._step = step
        self._handles: list[Any] = [  # no part of an update that is compiled: they count
            register_optimizer_step_pre_hook(apart(self._before)),
            register_optimizer_step_post_hook(apart(self._after)),
        ]

    def close(self) -> None:
        """The optimizers are the program's own again."""
        while self._handles:
            self._handles.pop().remove()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        step = self._step()
        if step is None or not self._trained.owner(optimizer, step.running):
            return None
        changed = step.before_update(optimizer, args[1:], kwargs)
        if changed is None:
            self._begin()
            return None
        (closure,), others = changed

        def evaluated() -> Any:
            loss = closure()  # until then nothing of the state has changed
            self._begin()
            return loss

        return (optimizer, evaluated), others

    def _begin(self) -> None:
        """An update begins: in the middle of it the state is nobody's to copy."""
        self._state.clean = False
        self._state.updates_taken += 1

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if step := self._step():
            step.after_update(optimizer)
