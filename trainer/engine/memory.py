"""What some places held: remembered, compared with what is there now, and put back.

A place is an attribute, an entry of a dict, a buffer: a mapping and a key. Values that cannot
change are kept as they are; short lists and dicts, and small tensors, are copied, and get their
contents back in the same object, whoever else refers to it. A large tensor is only watched, by its
version, unless a copy of it is asked for. Other objects are not looked into, nor are long lists.

To remember the same places again, as each step does, takes a fraction of the first time: what is in
them is mostly the same objects, and a mapping's are compared at once.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Container, Iterable, MutableMapping
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALL = 64 * 1024  # bytes of a tensor or an array that is copied without being asked for
SHORT = 32  # entries of what is looked into without being asked for
_PLAIN = frozenset({bool, int, float, str, bytes, complex, type(None)})
_NO_PARTS = (Tensor, np.ndarray, dict, set)

Mapping = MutableMapping[str, Any]
Place = tuple[int, str]  # the id of a mapping, and a key


class Held:
    """One value: what it was.

    Args:
        value: as it is now.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def changed(self, now: Any) -> bool:
        """Whether ``now`` is another value, or the same object with other contents."""
        if self._value is now:
            return False
        try:
            return type(self._value) is not type(now) or not bool(self._value == now)
        except (RuntimeError, TypeError, ValueError):  # what cannot be compared
            return True

    @property
    def lost(self) -> bool:
        """Whether it has changed in a way that ``back`` cannot undo."""
        return False

    def back(self) -> Any:
        """Returns the value, with the contents that it had."""
        return self._value

    def again(self) -> bool:
        """Remembers the contents that the same value has now; False where it must be looked at."""
        return True


class _Tensor(Held):
    _copy: Tensor | None

    def __init__(self, value: Tensor, copied: bool) -> None:
        super().__init__(value)
        self._copied = copied
        self.again()

    def changed(self, now: Any) -> bool:
        return now is not self._value or self._value._version != self._version

    @property
    def lost(self) -> bool:
        return self._copy is None and self._value._version != self._version

    def back(self) -> Any:
        if self._copy is not None:
            with torch.no_grad():
                self._value.detach().copy_(self._copy)
            self._version = self._value._version
        return self._value

    def again(self) -> bool:
        value = self._value
        copied = self._copied or value.numel() * value.element_size() <= SMALL
        self._version = value._version  # it does not tell of all that write
        self._copy = value.detach().clone() if copied else None
        return True


class _Array(Held):
    _copy: np.ndarray[Any, Any] | None

    def __init__(self, value: np.ndarray[Any, Any], copied: bool) -> None:
        super().__init__(value)
        self._copied = copied
        self.again()

    def changed(self, now: Any) -> bool:
        if now is not self._value or self._copy is None:
            return now is not self._value
        return not np.array_equal(self._value, self._copy)

    def back(self) -> Any:
        if self._copy is not None and self._value.flags.writeable:
            self._value[...] = self._copy
        return self._value

    def again(self) -> bool:
        copied = self._copied or self._value.nbytes <= SMALL
        self._copy = self._value.copy() if copied else None
        return True


class _Set(Held):
    def __init__(self, value: set[Any]) -> None:
        super().__init__(value)
        self._copy = frozenset(value)

    def changed(self, now: Any) -> bool:
        return now is not self._value or bool(now != self._copy)

    def back(self) -> Any:
        self._value.clear()
        self._value.update(self._copy)
        return self._value

    def again(self) -> bool:
        self._copy = frozenset(self._value)
        return True


class _Several(Held):
    """What holds other values.

    Args:
        parts: gives them, with their keys.
        fill: gives them back to it.
    """

    def __init__(
        self,
        value: Any,
        copied: bool,
        parts: Callable[[Any], list[tuple[Any, Any]]],
        fill: Callable[[Any, list[tuple[Any, Any]]], None],
    ) -> None:
        super().__init__(value)
        self._of, self._fill = parts, fill
        self._copied = copied
        self._parts = [(key, held(one, copied)) for key, one in parts(value)]

    def changed(self, now: Any) -> bool:
        if now is not self._value:
            return True
        parts = self._of(now)
        return len(parts) != len(self._parts) or any(
            key != before or was.changed(one)
            for (key, one), (before, was) in zip(parts, self._parts, strict=True)
        )

    @property
    def lost(self) -> bool:
        return any(one.lost for _, one in self._parts)

    def back(self) -> Any:
        self._fill(self._value, [(key, one.back()) for key, one in self._parts])
        return self._value

    def again(self) -> bool:
        parts = self._of(self._value)
        if len(parts) == len(self._parts) and all(
            key == before and one is was._value
            for (key, one), (before, was) in zip(parts, self._parts, strict=True)
        ):
            return all(was.again() for _, was in self._parts)
        self._parts = [(key, held(one, self._copied)) for key, one in parts]
        return not any(_may_hold_parts(one) for _, one in parts)


def held(value: Any, copied: bool = False) -> Held:
    """What a value is now.

    Args:
        value: anything.
        copied: whether it is copied however large it is.
    """
    if type(value) in _PLAIN or isinstance(value, nn.Parameter):  # which are watched elsewhere
        return Held(value)
    if isinstance(value, Tensor):
        return _Tensor(value, copied)
    if isinstance(value, np.ndarray):
        return _Array(value, copied)
    if isinstance(value, set) and (copied or len(value) <= SHORT):
        return _Set(value)
    if isinstance(value, dict | list | deque | tuple) and (copied or len(value) <= SHORT):
        return _Several(value, copied, *_ways_of(value))
    if dataclasses.is_dataclass(type(value)) and hasattr(value, "__dict__"):
        return _Several(value, copied, lambda one: list(vars(one).items()), _fill_object)
    return Held(value)


class _Entries:
    """What some entries of a mapping held.

    Args:
        mapping: may change itself.
        keys: of those that count; None for all.
        copied: whether the value of a key is copied however large it is.
    """

    def __init__(
        self, mapping: Mapping, keys: Iterable[str] | None, copied: Callable[[str], bool]
    ) -> None:
        self.mapping = mapping
        self._keys = None if keys is None else list(keys)
        self._copied = copied
        self._was = self._now()
        self._inside = {
            key: held(value, copied(key))
            for key, value in self._was.items()
            if type(value) not in _PLAIN
        }

    def again(self) -> bool:
        """Remembers what they hold now; False where other objects are, which must be looked at."""
        was, now = self._was, self._now()
        self._was = now
        if was.keys() != now.keys():
            return False
        if not all(map(is_, was.values(), now.values())):
            for key, value in now.items():
                if value is was[key]:
                    continue
                if _may_hold_parts(value):
                    return False
                self._inside.pop(key, None)
                if type(value) not in _PLAIN:
                    self._inside[key] = held(value, self._copied(key))
        return all(one.again() for one in self._inside.values())

    def changed(self) -> Iterable[str]:
        """The keys of those that hold something else now."""
        for key, value in self._was.items():
            before = self._inside.get(key) or Held(value)
            if key not in self.mapping or before.changed(self.mapping[key]):
                yield key

    def put_back(self) -> str:
        """Returns the key of the first that could not get back its contents; "" if all have."""
        lost = ""
        for key, before in self._inside.items():
            lost = lost or (key if before.lost else "")
            before.back()
        if self._keys is None:
            for key in self.mapping.keys() - self._was.keys():
                del self.mapping[key]
        self.mapping.update(self._was)
        return lost

    def _now(self) -> dict[str, Any]:
        mapping = self.mapping
        if self._keys is None:
            return dict(mapping)
        return {key: mapping[key] for key in self._keys if key in mapping}


class Memory:
    """What some places held.

    Args:
        of: mappings, and the keys that count; None for all, with those that come and go.
        copied: whose contents are copied however large they are; all if it is True.
    """

    def __init__(
        self,
        of: Iterable[tuple[Mapping, Iterable[str] | None]] = (),
        copied: Container[Place] | bool = (),
    ) -> None:
        def whether(mapping: Mapping) -> Callable[[str], bool]:
            if isinstance(copied, bool):
                return lambda key: copied
            return lambda key: (id(mapping), key) in copied

        self._entries = [_Entries(mapping, keys, whether(mapping)) for mapping, keys in of]

    def again(self) -> bool:
        """Remembers what the same places hold now.

        Returns False where other objects are in them than before, of which some may hold places
        themselves: then nothing is remembered, and another memory is to be made.
        """
        return all(one.again() for one in self._entries)

    def changed(self) -> set[Place]:
        """The places that hold something else now."""
        return {(id(one.mapping), key) for one in self._entries for key in one.changed()}

    def put_back(self) -> str:
        """Makes all places hold what they held. To be called again when they have changed again.

        Returns the key of the first that could not get back its contents; "" if all have.
        """
        lost = ""
        for one in self._entries:
            lost = one.put_back() or lost
        return lost


def _may_hold_parts(value: Any) -> bool:
    """Whether a value, or what a list has of them, may be an object with places of its own."""
    if isinstance(value, list | tuple | deque):
        return not all(type(one) in _PLAIN for one in value)
    return type(value) not in _PLAIN and not isinstance(value, _NO_PARTS)


def _ways_of(
    value: Any,
) -> tuple[Callable[[Any], list[tuple[Any, Any]]], Callable[[Any, list[tuple[Any, Any]]], None]]:
    """How a container's parts are found, and how they are given back to it."""
    if isinstance(value, dict):
        return lambda one: list(one.items()), _fill_dict
    numbered: Callable[[Any], list[tuple[Any, Any]]] = lambda one: list(enumerate(one))  # noqa: E731
    return numbered, _leave if isinstance(value, tuple) else _fill_list


def _fill_dict(value: dict[Any, Any], parts: list[tuple[Any, Any]]) -> None:
    value.clear()
    dict.update(value, parts)  # that of a Counter counts


def _fill_list(value: Any, parts: list[tuple[Any, Any]]) -> None:
    value.clear()
    value.extend(part for _, part in parts)


def _fill_object(value: Any, parts: list[tuple[Any, Any]]) -> None:
    vars(value).clear()
    vars(value).update(parts)


def _leave(value: Any, parts: list[tuple[Any, Any]]) -> None:
    """A tuple's parts have got back their own contents; itself does not change."""
