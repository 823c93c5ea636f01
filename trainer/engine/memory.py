"""What some places held: remembered, compared with what is there now, and put back.

A place is an attribute, an entry of a dict, a buffer: a mapping and a key. Values that cannot
change are kept as they are; lists, dicts, plain objects and small tensors are copied, and get their
contents back in the same object, whoever else refers to it. A large tensor is only watched, by its
version, and a large array by some of its numbers, unless a copy is asked for. What lies deep inside
others is not looked into, nor are very long lists.

To remember the same places again, as each step does, takes a fraction of the first time: what is in
them is mostly the same objects, and a mapping's are compared at once.
"""

from __future__ import annotations

import copy
from array import array
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import is_dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.engine.attributes import (
    CONTAINERS,
    PLAIN,
    Mapping,
    Slots,
    attributes_of,
    is_plain_object,
)

SMALL = 64 * 1024  # bytes of a tensor or an array that is copied without being asked for
SHORT = 32  # entries of what is copied with all that is in it
LONGEST = 1000  # entries of what is looked into without being asked for
DEEPEST = 1  # objects that are looked into, one in the other
SAMPLE = 1000  # numbers of a large array that are watched
_NO_PARTS = (Tensor, np.ndarray, dict, set)


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

    def __init__(self, value: Tensor, copied: bool, small: int = SMALL) -> None:
        super().__init__(value)
        self._copied = copied
        self._small = small
        self.again()

    def changed(self, now: Any) -> bool:
        if now is not self._value or self._value._version != self._version:
            return True
        # Who writes to .data, or through NumPy, changes no version.
        return self._copy is not None and not torch.equal(self._value, self._copy)

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
        copied = self._copied or value.numel() * value.element_size() <= self._small
        self._version = value._version  # it does not tell of all that write
        self._copy = value.detach().clone() if copied else None
        return True


class _Array(Held):
    _copy: np.ndarray[Any, Any] | None
    _sample: Any

    def __init__(self, value: np.ndarray[Any, Any], copied: bool) -> None:
        super().__init__(value)
        self._copied = copied
        self.again()

    def changed(self, now: Any) -> bool:
        if now is not self._value or self._copy is None:
            return now is not self._value or self.lost
        return not np.array_equal(self._value, self._copy)

    @property
    def lost(self) -> bool:
        return self._copy is None and not np.array_equal(self._sample, self._sample_now())

    def back(self) -> Any:
        if self._copy is not None and self._value.flags.writeable:
            self._value[...] = self._copy
        return self._value

    def again(self) -> bool:
        copied = self._copied or self._value.nbytes <= SMALL
        self._copy = self._value.copy() if copied else None
        self._sample = None if copied else self._sample_now()
        return True

    def _sample_now(self) -> Any:
        return self._value.flat[:: max(1, self._value.size // SAMPLE)]


class _Flat(Held):
    """What holds nothing that could change by itself: a list of numbers, a set, a byte array."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self._copy = copy.copy(value)

    def changed(self, now: Any) -> bool:
        try:
            return now is not self._value or bool(now != self._copy)
        except RuntimeError:  # another thread of the program changes it
            return True

    def back(self) -> Any:
        fill(self._value, self._copy)
        return self._value

    def again(self) -> bool:
        value, before = self._value, self._copy
        if type(value) is list and len(value) == len(before) and all(map(is_, value, before)):
            return True
        self._copy = copy.copy(value)
        return _is_flat(value)


class _Long(Held):
    """A very long container: whether it has grown or shrunk."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self._length = len(value)

    def changed(self, now: Any) -> bool:
        return now is not self._value or self.lost

    @property
    def lost(self) -> bool:
        return len(self._value) != self._length

    def again(self) -> bool:
        self._length = len(self._value)
        return True


class _Several(Held):
    """What holds other values: a dict, a list, a deque, a tuple.

    Args:
        each: remembers one of them.
    """

    def __init__(self, value: Any, each: Callable[[Any], Held]) -> None:
        super().__init__(value)
        self._each = each
        self._parts = [(key, each(one)) for key, one in _parts_of(value)]

    def changed(self, now: Any) -> bool:
        if now is not self._value:
            return True
        parts = _parts_of(now)
        return len(parts) != len(self._parts) or any(
            key != before or was.changed(one)
            for (key, one), (before, was) in zip(parts, self._parts, strict=True)
        )

    @property
    def lost(self) -> bool:
        return any(one.lost for _, one in self._parts)

    def back(self) -> Any:
        parts = [(key, one.back()) for key, one in self._parts]
        if _is_mapping(self._value):
            fill(self._value, dict(parts))
        elif not isinstance(self._value, tuple):  # which holds what it held
            fill(self._value, [one for _, one in parts])
        return self._value

    def again(self) -> bool:
        parts = _parts_of(self._value)
        if len(parts) == len(self._parts) and all(
            key == before and one is was._value
            for (key, one), (before, was) in zip(parts, self._parts, strict=True)
        ):
            return all(was.again() for _, was in self._parts)
        if len(parts) > max(SHORT, len(self._parts)):
            return False
        self._parts = [(key, self._each(one)) for key, one in parts]
        return not any(_may_hold_parts(one) for _, one in parts)


class _Object(Held):
    """An object of a class that knows nothing of torch: what its attributes were."""

    def __init__(self, value: Any, copied: bool, depth: int) -> None:
        super().__init__(value)
        self._attributes = attributes_of(value)
        self._inside = held(self._attributes, copied, depth)

    def changed(self, now: Any) -> bool:
        return now is not self._value or self._inside.changed(self._attributes)

    @property
    def lost(self) -> bool:
        return self._inside.lost

    def back(self) -> Any:
        self._inside.back()
        return self._value

    def again(self) -> bool:
        return self._inside.again()


def held(value: Any, copied: bool = False, depth: int = DEEPEST) -> Held:
    """What a value is now.

    Args:
        value: anything.
        copied: whether it is copied however large it is.
        depth: how many objects to look into, one in the other.
    """
    if type(value) in PLAIN:
        return Held(value)
    if isinstance(value, Tensor):
        elsewhere = isinstance(value, nn.Parameter)  # parameters are watched
        return Held(value) if elsewhere else _Tensor(value, copied)
    if isinstance(value, np.ndarray):
        return _Array(value, copied)
    if isinstance(value, CONTAINERS) or type(value) is Slots:
        return _held_container(value, copied, depth)
    if (depth or is_dataclass(value)) and is_plain_object(value):
        return _Object(value, copied, max(0, depth - 1))
    return Held(value)


def _held_container(value: Any, copied: bool, depth: int) -> Held:
    if len(value) > LONGEST and not copied:
        return _Long(value)
    if _is_flat(value):
        return Held(value) if isinstance(value, tuple) else _Flat(value)
    if copied or len(value) <= SHORT:
        return _Several(value, lambda one: held(one, copied, depth))
    return _Several(value, lambda one: _Tensor(one, False, 0) if type(one) is Tensor else Held(one))


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
        self._inside: dict[str, Held] = {}
        for key, value in self._was.items():
            self._hold(key, value)

    def again(self) -> bool:
        """Remembers what they hold now; False where other objects are, which must be looked at."""
        was, mapping = self._was, self.mapping
        # Before every step, and mostly nothing is new: without a line of Python for each entry.
        there = len(mapping) if self._keys is None else sum(map(mapping.__contains__, self._keys))
        if there != len(was) or not all(map(mapping.__contains__, was)):
            self._was = self._now()
            return False
        if not all(map(is_, map(mapping.__getitem__, was), was.values())):
            self._was = now = self._now()
            for key, value in now.items():
                if value is was[key]:
                    continue
                if _may_hold_parts(value):
                    return False
                self._hold(key, value)
        for one in self._inside.values():  # noqa: SIM110  # a generator costs as much as an entry
            if not one.again():
                return False
        return True

    def written(self) -> Iterable[str]:
        """The keys of those whose objects hold something else inside now."""
        return (key for key, before in self._inside.items() if before.changed(self._was[key]))

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

    def _hold(self, key: str, value: Any) -> None:
        """Remembers what a value holds inside, if it may change there."""
        one = None if type(value) in PLAIN else held(value, self._copied(key))
        if one is None or type(one) is Held:
            self._inside.pop(key, None)
        else:
            self._inside[key] = one

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
        copied: Container[Hashable] | bool = (),
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
        return all(map(_Entries.again, self._entries))

    def written(self) -> set[tuple[int, str]]:
        """The places whose objects hold something else inside now."""
        return {(id(one.mapping), key) for one in self._entries for key in one.written()}

    def put_back(self) -> str:
        """Makes all places hold what they held. To be called again when they have changed again.

        Returns the key of the first that could not get back its contents; "" if all have.
        """
        lost = ""
        for one in self._entries:
            lost = one.put_back() or lost
        return lost


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) or type(value) is Slots


def _may_hold_parts(value: Any) -> bool:
    """Whether a value, or what a list has of them, may be an object with places of its own."""
    if isinstance(value, list | tuple | deque):
        return not PLAIN.issuperset(map(type, value))
    return type(value) not in PLAIN and not isinstance(value, _NO_PARTS)


def _is_flat(value: Any) -> bool:
    """Whether nothing in a container could change by itself."""
    if isinstance(value, set | bytearray | array):
        return True
    return PLAIN.issuperset(map(type, value.values() if _is_mapping(value) else value))


def _parts_of(value: Any) -> list[tuple[Any, Any]]:
    """What a container holds, with keys."""
    return list(value.items() if _is_mapping(value) else enumerate(value))


def fill(value: Any, contents: Any) -> None:
    """Makes a container hold these contents, and nothing else."""
    if _is_mapping(value):
        value.clear()
        for key, one in contents.items():  # a Counter's update() would count
            value[key] = one
    elif isinstance(value, set):
        value.clear()
        value.update(contents)
    elif isinstance(value, deque):
        value.clear()
        value.extend(contents)
    else:
        value[:] = contents
