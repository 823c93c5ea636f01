"""Plain numbers on a model's modules, such as a count of calls: a newcomer needs them, too.

``state_dict`` does not have them, and a program that counts so works in a plain loop. So those that
have changed since the state was made travel with it. (What else a module keeps in attributes does
not: a tensor that evolves must be a buffer.)
"""

from __future__ import annotations

from torch import nn

Number = int | float | bool


class Counters:
    """The plain numbers of a model's modules.

    Args:
        model: as it is at the start.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._first = self._now()

    def changed(self) -> dict[str, Number]:
        """Those that are not what they were at the start, by path: ``block.calls``."""
        missing = object()
        return {
            path: value
            for path, value in self._now().items()
            if self._first.get(path, missing) != value
        }

    def load(self, changed: dict[str, Number]) -> None:
        """Sets numbers that ``changed`` gave; other modules' than there are are passed over."""
        modules = dict(self._model.named_modules())
        for path, value in changed.items():
            owner, _, name = path.rpartition(".")
            if owner in modules:
                setattr(modules[owner], name, value)

    def _now(self) -> dict[str, Number]:
        return {
            f"{owner}.{name}".removeprefix("."): value
            for owner, module in self._model.named_modules()
            for name, value in vars(module).items()
            if type(value) in (int, float, bool) and name != "training"
        }
