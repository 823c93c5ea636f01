"""The end of a backward pass: of the outermost one, whatever is recomputed inside it.

autograd calls back at the end of a graph task, but reentrant recomputation
(``torch.utils.checkpoint`` with ``use_reentrant=True``) runs a task of its own for every block, in
the middle of another one. A task is inside another if a node is being evaluated when it ends. The
outer one may reach no parameter by itself; so we wait there for the next of its nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_engine: Any = torch.autograd.Variable._execution_engine
_autograd: Any = torch._C
current_task: Callable[[], int] = _autograd._current_graph_task_id  # -1 outside of any


class BackwardEnd:
    """Calls back at the end of each outermost backward pass that has reached a parameter.

    Args:
        callback: called before ``backward()`` returns; what it raises, ``backward()`` raises. It is
            told whether a pass before this one has not come to its end, because it raised.

    Attributes:
        task: the newest that is watched; an outer one, once its inner ones are done.
    """

    def __init__(self, callback: Callable[[bool], None]) -> None:
        self._callback = callback
        self.task = -1
        self._watched: set[int] = set()
        self._over: set[int] = set()

    def reached(self) -> None:
        """To be called when backward has reached a parameter, by a hook, in another ``task``."""
        task = current_task()
        if task == self.task:
            return
        self.task = task
        if task not in self._watched:
            self._watched.add(task)
            _engine.queue_callback(self._ended)

    def forget(self) -> None:
        """Another step: what was broken off before is none of its concern."""
        self._watched.clear()
        self._over.clear()
        self.task = -1

    def _ended(self) -> None:
        node = _autograd._current_autograd_node()
        self._over.add(current_task())
        if node is None:
            broken = bool(self._watched - self._over)
            self.forget()
            self._callback(broken)
            return
        handles: list[Any] = []

        def next_one(*gradients: Any) -> None:
            while handles:
                handles.pop().remove()
            self.reached()

        for following, _ in node.next_functions:
            if following is not None:
                handles.append(following.register_prehook(next_one))
