"""The outline of mappings: which objects they hold, and which of their tensors are written to.

Attributes of modules, and buffers, are too many to look into before every step. A copy of a mapping
is quick, and so are the versions of its tensors: by them it is known afterwards what has changed,
and what is another object is put back. What has changed inside an object is put back if it was
copied, and known to be lost if not.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, MutableMapping
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor

Mapping = MutableMapping[Any, Any]
Place = tuple[int, Hashable]  # the id of a mapping, and a key
_NOTHING = object()


class Outline:
    """What some mappings hold.

    Args:
        of: the mappings.
        without: keys that do not count.
    """

    def __init__(self, of: Iterable[Mapping] = (), without: Container[Any] = ()) -> None:
        self._of = list(of)
        self._without = without
        self._was: list[dict[Any, Any]] = []
        self.remember()

    def remember(self) -> None:
        """What they hold now is what will be put back."""
        self._was = [dict(one) for one in self._of]

    @property
    def size(self) -> int:
        """How many values there are."""
        return sum(map(len, self._was))

    @property
    def kinds(self) -> list[type]:
        """The classes of the values, in order."""
        return [*map(type, chain.from_iterable(one.values() for one in self._was))]

    def replaced(self) -> set[int]:
        """The ids of the mappings that hold other objects now."""
        return {
            id(mapping)
            for mapping, was in zip(self._of, self._was, strict=True)
            if len(mapping) != len(was) or not all(map(is_, mapping.values(), was.values()))
        }

    def put_back(self) -> None:
        """Lets all mappings hold what they held."""
        for mapping, was in zip(self._of, self._was, strict=True):
            for key in [*mapping]:
                if key not in was and key not in self._without:
                    del mapping[key]
            for key, value in was.items():
                if key not in self._without and mapping.get(key, _NOTHING) is not value:
                    mapping[key] = value


class Tensors(Outline):
    """What some mappings hold, and the versions of the tensors among it.

    Args:
        of: the mappings.
        copied: the places whose tensors are copied; all of them if it is True.
    """

    def __init__(self, of: Iterable[Mapping] = (), copied: Container[Hashable] | bool = ()) -> None:
        self._values: list[Any] | None = None
        self._tensors: list[tuple[Place, Tensor]] = []
        self._versions: list[int] = []
        self._copies: dict[Hashable, Tensor] = {}
        super().__init__(of)
        self.copy(copied)

    def remember(self) -> None:
        values = [value for one in self._of for value in one.values()]
        known = self._values
        if known is None or len(known) != len(values) or not all(map(is_, known, values)):
            super().remember()
            self._values = values
            self._copies = {}
            self._tensors = [
                ((id(mapping), key), value)
                for mapping in self._of
                for key, value in mapping.items()
                if isinstance(value, Tensor)
            ]
        self._versions = [one._version for _, one in self._tensors]

    def copy(self, copied: Container[Hashable] | bool) -> None:
        """Copies the tensors of some places; to be called when all is remembered."""
        if not copied:
            self._copies = {}
            return
        wanted = {p: one for p, one in self._tensors if copied is True or p in copied}
        before, now = [*self._copies.values()], [*wanted.values()]
        alike = [one.shape for one in before] == [one.shape for one in now]
        with torch.no_grad():
            if wanted and alike and self._copies.keys() == wanted.keys():
                torch._foreach_copy_(before, now)
            else:
                self._copies = {place: one.clone() for place, one in wanted.items()}

    @property
    def named(self) -> list[tuple[Place, Tensor]]:
        """The tensors, by their places."""
        return self._tensors

    def written(self) -> set[Hashable]:
        """The places whose tensors were written to."""
        now = [one._version for _, one in self._tensors]
        if now == self._versions:
            return set()
        places = (place for place, _ in self._tensors)
        return {p for p, one, was in zip(places, now, self._versions, strict=True) if one != was}

    def lost(self, known: Container[Hashable] = ()) -> str:
        """The key of a tensor that was written to, and cannot be put back; "" without one.

        Args:
            known: further places whose tensors were written to.
        """
        written = self.written()
        for place, _ in self._tensors:
            if place not in self._copies and (place in written or place in known):
                return str(place[1])
        return ""

    def put_back(self) -> None:
        super().put_back()
        with torch.no_grad():
            for place, one in self._tensors:
                if place in self._copies:
                    one.detach().copy_(self._copies[place])
        self._versions = [one._version for _, one in self._tensors]
