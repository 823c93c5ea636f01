"""What a model's modules keep in plain attributes, such as a count of calls: a newcomer needs it.

``state_dict`` does not have it, nor which modules are in training mode, and a program that counts
so works in a plain loop. So what has changed since the state was made travels with it: numbers and
texts, NumPy's too, enums, dataclasses, small tensors, lists and dicts of them, and those that
helper objects of a module keep. What is large must be a buffer.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor, nn

from trainer.checkpoints.tree import flatten
from trainer.engine.attributes import attributes_of, is_plain_object, is_routine
from trainer.engine.collected import LONGEST, collected, is_collected, taken_over
from trainer.engine.digest import digest, digest_of
from trainer.engine.memory import SMALL
from trainer.engine.values import Unportable, packed, unpacked

OWN = frozenset(vars(nn.Module())) - {"training"}  # what torch keeps in a module
_PLAIN = (int, float, bool, str)


class Counters:
    """The plain attributes of a model's modules.

    Args:
        model: as it is at the start.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        # Functions that a forward pass sets are there once a worker has had a sample.
        self._own = {
            path: sorted(
                {"forward", *(key for key, one in vars(module).items() if is_routine(one))}
            )
            for path, module in self._modules.items()
        }
        self._first = {path: _mark(tree) for path, tree in self._now()}

    def makeup(self) -> int:
        """A digest of which classes the modules are of that there were at the start, and of which
        functions their attributes are: nobody can send these to a newcomer.
        """
        now = dict(self._model.named_modules())
        return digest_of([(path, *_makeup(now.get(path), own)) for path, own in self._own.items()])

    def changed(self) -> dict[str, Any]:
        """Those that are not what they were at the start, by path: ``block.calls``."""
        missing = object()
        return {
            path: tree
            for path, tree in self._now()
            if self._first.get(path, missing) != _mark(tree)
        }

    def load(self, changed: dict[str, Any]) -> None:
        """Sets what ``changed`` gave; other modules' than there are are passed over.

        Raises ValueError for a type that this process does not have.
        """
        holders = self._holders()
        for path, tree in changed.items():
            owner, _, name = path.rpartition(".")
            holder = holders.get(owner)
            if holder is not None and name not in OWN:
                own = getattr(holder, name, None)
                value = taken_over(tree, own) if is_collected(tree) else unpacked(tree)
                if isinstance(value, Tensor) and isinstance(own, Tensor):
                    value = value.to(own.device)
                setattr(holder, name, value)

    def _now(self) -> Iterator[tuple[str, Any]]:
        """The path of each that travels, and its value as it travels."""
        for owner, holder in self._holders().items():
            for name, value in attributes_of(holder).items():
                path = f"{owner}.{name}".removeprefix(".")
                if type(value) in _PLAIN:
                    yield path, value
                elif name not in OWN:
                    for tree in _trees_of(value, path):
                        yield path, tree

    def _holders(self) -> dict[str, Any]:
        """The modules, and the helper objects that are attributes of theirs, each once."""
        found: dict[str, Any] = dict(self._modules)
        seen: set[int] = set()
        for owner, module in self._modules.items():
            for name, value in vars(module).items():
                helps = name not in OWN and not _travels(value)
                if helps and id(value) not in seen and is_plain_object(value):
                    seen.add(id(value))
                    found.setdefault(f"{owner}.{name}".removeprefix("."), value)
        return found


def _makeup(module: nn.Module | None, own: list[str]) -> Iterator[str]:
    yield f"{type(module).__module__}.{type(module).__qualname__}"
    for key in own:
        value = None if module is None else vars(module).get(key)
        yield "" if value is None else getattr(value, "__qualname__", type(value).__qualname__)


def _trees_of(value: Any, path: str) -> Iterator[Any]:
    """A value as it travels; nothing for what does not."""
    if _travels(value):
        with suppress(Unportable):
            yield packed(value, path)
            return
    if (tree := collected(value)) is not None:
        yield tree


def _travels(value: Any) -> bool:
    """Whether a value is of a kind that travels, and small; a model's own tensors do not."""
    if isinstance(value, Tensor):
        small = value.numel() * value.element_size() <= SMALL
        return small and not value.requires_grad and not isinstance(value, nn.Parameter)
    if isinstance(value, np.ndarray):
        return value.nbytes <= SMALL
    if isinstance(value, list | tuple):
        return len(value) <= LONGEST and all(map(_travels, value))
    if isinstance(value, dict):
        return len(value) <= LONGEST and all(map(_travels, value.values()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_travels(getattr(value, one.name)) for one in dataclasses.fields(value))
    return isinstance(value, (*_PLAIN, type(None), np.generic, enum.Enum))


def _mark(tree: Any) -> Any:
    """What tells a value from others: itself, or a digest of what it holds."""
    if type(tree) in _PLAIN:
        return type(tree), tree
    skeleton, tensors = flatten(tree)
    return digest_of(skeleton), *(int(digest(one)) for one in tensors)
