"""What modules keep in attributes goes to a newcomer, of whatever plain kind it is."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter, defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from trainer.engine.collected import LONGEST
from trainer.engine.counters import Counters

Seen = namedtuple("Seen", "samples")


@dataclasses.dataclass
class Count:
    number: int = 0


@dataclasses.dataclass(slots=True)
class Counts:
    one: Count = dataclasses.field(default_factory=Count)


class Meter:
    """A helper object of a program's own."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = Count()


class Holder(nn.Module):
    """A module that keeps a value."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def arrived(make: Callable[[], Any], changed: Any) -> Any:
    """What a newcomer has of a value that ``make`` has made, and that has become another one."""
    here, there = Holder(make()), Holder(make())
    counters = Counters(here)
    if callable(changed):
        changed(here.value)
    else:
        here.value = changed
    Counters(there).load(counters.changed())
    return there.value


CHANGED: dict[str, tuple[Callable[[], Any], Any]] = {
    "set": (set, {3, 1, 2}),
    "frozenset": (frozenset, frozenset("ab")),
    "deque": (lambda: deque(maxlen=2), deque([1, 2], maxlen=2)),
    "Counter": (Counter, Counter({"a": 2})),
    "dict by tuples": (dict, {(0, 1): 3.0, (1, (2, None)): "a"}),
    "bytearray": (lambda: bytearray(1), bytearray(b"ab")),
    "bytes": (bytes, b"ab"),
    "complex": (complex, 1 + 2j),
    "array": (lambda: array("i"), array("i", [1, 2])),
    "namedtuple": (lambda: Seen(0), Seen(5)),
    "dataclass": (Counts, Counts(Count(3))),
    "nothing": (lambda: 1, None),
}


@pytest.mark.parametrize("name", CHANGED)
def test_it_arrives(name: str) -> None:
    make, changed = CHANGED[name]
    found = arrived(make, changed)
    assert (type(found), found) == (type(changed), changed)


def test_a_default_stays_that_of_the_newcomer() -> None:
    found = arrived(lambda: defaultdict(int), lambda value: value.update(a=1))
    assert found == {"a": 1} and found["b"] == 0


def test_a_helper_object_with_slots_is_filled() -> None:
    assert arrived(Meter, lambda meter: setattr(meter.count, "number", 2)).count == Count(2)


@pytest.mark.parametrize(
    "changed",
    [{object()}, deque([[1]]), deque(range(LONGEST + 1)), {(0, 1): [1]}],
    ids=["objects", "lists", "long", "lists by tuples"],
)
def test_what_is_not_plain_or_too_long_is_the_newcomers_own(changed: Any) -> None:
    kind = type(changed)
    assert arrived(kind, changed) == kind()


def test_what_the_newcomer_has_of_another_kind_it_keeps() -> None:
    counters, there = Counters(here := Holder({1})), Holder([1.0])
    here.value.add(2)
    Counters(there).load(counters.changed())
    assert there.value == [1.0]
