"""What a place held is put back, whatever has been done to it, in the objects that it had."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from array import array
from collections import Counter, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.engine.attributes import is_routine
from trainer.engine.memory import LONGEST, SHORT, SMALL, Memory

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=8,
)


def spoil(value: Any) -> None:
    """Changes whatever can be changed in a value."""
    if isinstance(value, list | deque):
        for one in value:
            spoil(one)
        value.append("spoilt")
    elif isinstance(value, dict):
        for one in value.values():
            spoil(one)
        value["spoilt"] = 1
    elif isinstance(value, set):
        value.add("spoilt")
    elif isinstance(value, tuple):
        for one in value:
            spoil(one)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.booleans(), st.data())
def test_everything_is_as_it_was(
    place: dict[str, Any], all_keys: bool, data: st.DataObject
) -> None:
    before, objects = copy.deepcopy(place), dict(place)
    memory = Memory([(place, None if all_keys else list(place))])
    assert memory.written() == set()
    for _ in range(data.draw(st.integers(1, 2))):  # it may be put back more than once
        for key in list(place):
            spoil(place[key])
            if data.draw(st.booleans()):
                place[key] = object()
        if all_keys:
            place["new"] = 1
        assert memory.put_back() == ""
        assert place == before
        assert all(place[key] is one for key, one in objects.items())
    assert memory.written() == set()


CHANGES = st.lists(
    st.tuples(st.sampled_from(["spoil", "replace", "add", "delete"]), st.integers(0, 3), VALUES),
    max_size=4,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.booleans(), CHANGES)
def test_remembered_again_it_is_as_if_remembered_for_the_first_time(
    place: dict[str, Any], all_keys: bool, changes: list[tuple[str, int, Any]]
) -> None:
    memory = Memory([(place, None if all_keys else list(place))])
    for how, index, value in changes:
        key = next(iter(list(place)[index:]), "new")
        if how == "spoil":
            spoil(place.get(key))
        elif how == "delete":
            place.pop(key, None)
        else:
            place[key if how == "replace" else "new"] = value
    before, objects = copy.deepcopy(place), dict(place)
    if not memory.again():
        memory = Memory([(place, None if all_keys else list(place))])
    assert memory.written() == set()
    for key in before:
        spoil(place[key])
        place[key] = object() if all_keys else place[key]
    assert memory.put_back() == ""
    if all_keys:
        assert place == before
        assert all(place[key] is one for key, one in objects.items())


def test_contents_are_remembered_again_in_whatever_way_they_were_written() -> None:
    tensor, numbers = torch.zeros(3), np.zeros(2)
    place: dict[str, Any] = {"t": tensor, "a": numbers, "l": [tensor, {1}], "d": deque([1])}
    memory = Memory([(place, None)])
    tensor.data[0] = 1  # without a new version
    numbers[0] = 1
    place["l"][1].add(2)
    place["d"].append(2)
    assert memory.again()
    tensor += 5
    numbers += 5
    place["l"][1].clear()
    place["d"].clear()
    assert memory.put_back() == ""
    assert tensor.tolist() == [1, 0, 0]
    assert numbers.tolist() == [1, 0]
    assert place["l"][1] == {1, 2}
    assert place["d"] == deque([1, 2])


def test_what_has_grown_in_its_place_is_remembered_as_large_as_it_is() -> None:
    tensor, numbers = torch.zeros(1), np.zeros(1)
    memory = Memory([({"tensor": tensor, "numbers": numbers}, None)])
    tensor.data = torch.arange(3.0)
    numbers.resize(3, refcheck=False)
    assert memory.again()
    tensor.zero_()
    numbers += 1
    assert memory.put_back() == ""
    assert (tensor.tolist(), numbers.tolist()) == ([0, 1, 2], [0, 0, 0])


class Part:
    """It may hold places of its own."""


@pytest.mark.parametrize(
    "value, known",
    [(1.5, True), ([1, 2], True), ({"a": 1}, True), (Part(), False), ([Part()], False)],
    ids=["number", "numbers", "dict", "object", "objects"],
)
def test_where_another_object_has_come_one_must_look_anew(value: Any, known: bool) -> None:
    place: dict[str, Any] = {"one": [1.0], "part": None}
    memory = Memory([(place, None)])
    assert memory.again()
    place["part"] = value
    assert memory.again() == known
    place["one"].append(value)
    memory = Memory([(place, None)])
    place["one"].append(value)
    assert memory.again() == known


@dataclasses.dataclass
class Point:
    x: float
    past: list[float]


def test_arrays_tensors_and_dataclasses_get_their_contents_back() -> None:
    tensor, numbers = torch.arange(4.0), np.arange(4)
    point, past = Point(1.0, [0.5]), deque([1])
    place: dict[str, Any] = {"t": [tensor], "a": numbers, "p": point, "d": past}
    memory = Memory([(place, None)])
    tensor += 1
    numbers[:] = 9
    point.x, point.past = 2.0, [7.0]
    past.append(2)
    assert {key for _, key in memory.written()} == {"t", "a", "p", "d"}
    assert memory.put_back() == ""
    assert tensor.tolist() == numbers.tolist() == [0, 1, 2, 3]
    assert (point, past) == (Point(1.0, [0.5]), deque([1]))


def test_a_counter_gets_its_counts_back() -> None:
    place: dict[str, Any] = {"milestones": Counter({3: 1})}  # as MultiStepLR has them
    memory = Memory([(place, None)])
    place["milestones"][3] = 2
    memory.put_back()
    assert place == {"milestones": Counter({3: 1})}


def test_a_large_tensor_is_only_watched_unless_a_copy_is_asked_for() -> None:
    large = torch.zeros(SMALL // 4 + 1)
    place = {"large": large}
    memory = Memory([(place, None)])
    large += 1
    assert memory.put_back() == "large"
    memory = Memory([(place, None)], {(id(place), "large")})
    large += 1
    assert memory.put_back() == ""
    assert large.eq(1).all()
    place["large"] = torch.ones(1)
    assert Memory([(place, None)], True).put_back() == ""


def test_a_long_list_gets_its_numbers_and_objects_back() -> None:
    tensors = [torch.zeros(1) for _ in range(SHORT + 1)]
    place: dict[str, Any] = {"numbers": [0] * LONGEST, "tensors": list(tensors)}
    memory = Memory([(place, None)])
    place["numbers"][7] = 1
    place["tensors"][7] = None
    assert memory.put_back() == ""
    assert place == {"numbers": [0] * LONGEST, "tensors": tensors}
    tensors[7] += 1
    assert memory.put_back() == "tensors", "each of so many is only watched"


def test_a_very_long_list_is_not_copied_unless_it_is_asked_for() -> None:
    place = {"long": [0] * (LONGEST + 1)}
    for copied, lost, length in (((), "long", LONGEST + 2), (True, "", LONGEST + 2)):
        memory = Memory([(place, None)], copied)
        place["long"].append(1)
        assert memory.put_back() == lost
        assert len(place["long"]) == length


def test_what_is_written_past_the_versions_is_seen_and_put_back() -> None:
    tensor, large = torch.zeros(2), np.zeros(SMALL)
    place = {"tensor": tensor, "large": large}
    memory = Memory([(place, None)])
    tensor.data.add_(1)
    tensor.numpy()[0] = 5
    assert memory.written() == {(id(place), "tensor")}
    assert memory.put_back() == ""
    assert tensor.tolist() == [0, 0]
    large += 1
    assert memory.put_back() == "large", "of a large one some numbers are watched"


class Helper:
    """An object of a program's own."""

    def __init__(self) -> None:
        self.count, self.past, self.inner = 0, [0.0], None


def test_helper_objects_and_odd_containers_get_their_contents_back() -> None:
    """A Counter, which a MultiStepLR keeps, counts what it is updated with."""
    helper, counter = Helper(), Counter({3: 1, 5: 2})
    kept: dict[str, Any] = {"of": defaultdict(list, a=[1]), "bytes": bytearray(b"ab")}
    kept |= {"helpers": [helper], "counter": counter, "array": array("d", [1.0])}
    memory = Memory([(kept, None)])
    helper.count, helper.new = 3, 1  # type: ignore[attr-defined]
    helper.past.append(1.0)
    counter[3] += 1
    del counter[5]
    kept["of"]["b"].append(1)
    kept["bytes"][0] = 0
    kept["array"].append(2.0)
    assert memory.put_back() == ""
    assert vars(helper) == vars(Helper())
    assert counter == Counter({3: 1, 5: 2})
    assert kept["of"] == {"a": [1]}
    assert (kept["bytes"], kept["array"]) == (bytearray(b"ab"), array("d", [1.0]))


@dataclasses.dataclass(slots=True)
class Slotted:
    point: Point
    count: int = 0


def test_dataclasses_in_others_and_slots_get_their_contents_back() -> None:
    slotted = Slotted(Point(1.0, [0.5]))
    kept: dict[str, Any] = {"tables": {"a": [slotted]}}
    memory = Memory([(kept, None)])
    for _ in range(2):
        slotted.count += 1
        slotted.point.x += 1
        slotted.point.past.append(1.0)
        assert {key for _, key in memory.written()} == {"tables"}
        assert memory.put_back() == ""
        assert slotted == Slotted(Point(1.0, [0.5]))
        assert memory.again()


def test_dataclasses_that_refer_to_each_other_are_left_alone() -> None:
    node = Slotted(Point(1.0, []))
    node.point.x = node  # type: ignore[assignment]
    memory = Memory([({"node": node}, None)])
    node.count += 1
    assert memory.put_back() == ""
    assert node.count == 1


@pytest.mark.parametrize("copied", [True, False])
def test_a_parameter_is_left_alone(copied: bool) -> None:
    """It is watched by whoever trains it."""
    parameter = nn.Parameter(torch.zeros(2))
    memory = Memory([({"weights": [parameter]}, None)], copied)
    with torch.no_grad():
        parameter.add_(1)
    assert memory.put_back() == ""
    assert parameter.tolist() == [1, 1]


class Counted(dict[str, int]):
    """What another thread writes to while it is compared."""

    def __ne__(self, other: object) -> bool:
        raise RuntimeError("dictionary changed size during iteration")


def test_what_another_thread_changes_meanwhile_counts_as_changed() -> None:
    place: dict[str, Any] = {"calls": Counted(forward=1)}
    memory = Memory([(place, None)])
    assert memory.written() == {(id(place), "calls")}


def test_what_is_a_routine_is_known_as_inspect_knows_it() -> None:
    class Bound:
        def method(self) -> None: ...

        static = staticmethod(len)

    values: list[Any] = [len, Bound, Bound().method, Bound.method, [].append, str.join, object()]
    values += [
        "".join,
        object().__str__,
        property(),
        vars(Bound)["static"],
        1,
        None,
        print,
        type(len),
    ]
    for value in values:
        assert is_routine(value) == inspect.isroutine(value), value
