"""What a step's forward passes have changed is taken back when the step is not taken.

A worker is lost in the middle of a step, and the others take the step again. Their parameters are
untouched by then, but not what a forward pass changes by itself: batch statistics, a counter in a
buffer or an attribute. Which of them change is learned from the steps before.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer.engine.counters import Counters, Number
from trainer.engine.statistics import places_in

Place = tuple[nn.Module, str]


class Undo:
    """Remembers what some models had when a step began.

    Args:
        models: whose buffers they are.
        counters: the plain numbers of their modules.
    """

    def __init__(self, models: Iterable[nn.Module], counters: Iterable[Counters]) -> None:
        models = list(models)
        modules = {id(one): one for model in models for one in model.modules()}.values()
        self._silent = set(places_in(models))  # torch changes them without a new version
        self._places = [(one, name) for one in modules for name in one._buffers]
        self._moving = set(self._places)  # all, before the first step
        self._counters = list(counters)
        self._counting: list[set[str] | None] = [None for _ in self._counters]
        self._found: dict[Place, tuple[int, int]] = {}
        self._buffers: dict[Place, Tensor] = {}
        self._numbers: list[dict[str, Number]] = []
        self._learned = False

    def begin(self) -> None:
        """A step begins."""
        self._found = {place: _version(place) for place in self._places}
        self._buffers = {
            (module, name): buffer.clone()
            for module, name in self._moving
            if (buffer := module._buffers[name]) is not None
        }
        self._numbers = [
            one.values(paths) for one, paths in zip(self._counters, self._counting, strict=True)
        ]

    def taken(self, examine: bool) -> None:
        """The step was taken.

        Args:
            examine: whether to look for numbers that have begun to change, too.
        """
        moved = {place for place in self._places if _version(place) != self._found.get(place)}
        self._moving = self._moving | moved if self._learned else moved | self._silent
        self._learned = True
        if examine:
            self._counting = [set(one.changed()) for one in self._counters]

    def undo(self) -> None:
        """The step was not taken."""
        with torch.no_grad():
            for (module, name), value in self._buffers.items():
                buffer = module._buffers[name]
                if buffer is not None and buffer.shape == value.shape:
                    buffer.copy_(value)
                else:
                    module._buffers[name] = value
        for one, numbers in zip(self._counters, self._numbers, strict=True):
            one.load(numbers)
        self._buffers, self._numbers = {}, [{} for _ in self._counters]


def _version(place: Place) -> tuple[int, int]:
    """Tells whether a buffer was written to, or replaced."""
    module, name = place
    buffer = module._buffers.get(name)
    return (0, 0) if buffer is None else (id(buffer), buffer._version)
