"""Plain values on a model's modules, such as a count of calls: a newcomer needs them, too.

``state_dict`` does not have them, nor which modules are in training mode, and a program that counts
so works in a plain loop. So those that have changed since the state was made travel with it. (What
else a module keeps in attributes does not: a tensor that evolves must be a buffer.)
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

Number = int | float | bool | str


class Counters:
    """The plain values of a model's modules.

    Args:
        model: as it is at the start.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._first = self._now()

    def changed(self) -> dict[str, Number]:
        """Those that are not what they were at the start, by path: ``block.calls``."""
        missing = object()
        return {
            path: value
            for path, value in self._now().items()
            if self._first.get(path, missing) != value
        }

    def values(self, paths: Iterable[str] | None) -> dict[str, Number]:
        """Those of these paths, as they are; None for all."""
        if paths is None:
            return self._now()
        return {path: getattr(*self._at(path)) for path in paths}

    def load(self, changed: dict[str, Number]) -> None:
        """Sets numbers that ``changed`` gave; other modules' than there are are passed over."""
        for path, value in changed.items():
            module, name = self._at(path)
            if module is not None:
                setattr(module, name, value)

    def _at(self, path: str) -> tuple[nn.Module | None, str]:
        owner, _, name = path.rpartition(".")
        return self._modules.get(owner), name

    def _now(self) -> dict[str, Number]:
        return {
            f"{owner}.{name}".removeprefix("."): value
            for owner, module in self._modules.items()
            for name, value in vars(module).items()
            if type(value) in (int, float, bool, str)
        }
