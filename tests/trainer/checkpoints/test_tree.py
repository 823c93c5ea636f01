"""Nested state out of Python, through JSON, and back."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.checkpoints.tree import NotPortable, as_bytes, describe, flatten, make_like, unflatten

CPU = torch.device("cpu")
DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]

tensors = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.sampled_from(["__tensor__", "__pairs__", "__tuple__"])
trees = st.recursive(
    plain | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
)


def carried(tree: Any) -> Any:
    skeleton, found = flatten(tree)
    return unflatten(json.loads(json.dumps(skeleton)), [tensor.clone() for tensor in found])


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal, in types and in tensors too."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(trees)
def test_what_is_flattened_comes_back(tree: Any) -> None:
    assert same(carried(tree), tree)


@pytest.mark.parametrize("number", [math.inf, -math.inf, 0.1, 1e-310, -0.0])
def test_numbers_arrive_as_they_were(number: float) -> None:
    assert math.copysign(1, carried([number])[0]) == math.copysign(1, number)
    assert carried([number]) == [number]


def test_a_nan_arrives_too() -> None:
    assert math.isnan(carried({"loss": math.nan})["loss"])


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_optimizer_goes_on_as_if_nothing_had_happened(make: Any) -> None:
    options: dict[str, Any] = {"momentum": 0.9} if make is torch.optim.SGD else {}

    def trained(steps: int, parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()

    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make([parameter], lr=0.1, **options)
    trained(3, parameter, optimizer)
    copy = torch.nn.Parameter(parameter.detach().clone())
    moved = make([copy], lr=0.5, **options)
    moved.load_state_dict(carried(optimizer.state_dict()))
    trained(3, parameter, optimizer)
    trained(3, copy, moved)
    assert torch.equal(parameter, copy)


def test_a_model_with_buffers_comes_back() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    model(torch.randn(5, 3))
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(carried(dict(model.state_dict())))
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_tensors_are_not_copied_and_need_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    _, (found,) = flatten({"weight": weight})
    assert found.data_ptr() == weight.data_ptr()
    assert not found.requires_grad


def test_kinds_of_dicts_and_tuples_become_plain_ones() -> None:
    class Pair(NamedTuple):
        a: int
        b: int

    assert carried(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}
    assert carried(Pair(1, 2)) == (1, 2)


@pytest.mark.parametrize(
    "tree, place",
    [
        ({"optimizer": {"state": [1, {2}]}}, "state.optimizer.state[1] is a set"),
        ({"a": (0, object())}, "state.a[1] is a object"),
        ({"state": {0: {"f": print}}}, "state.state.0.f is a builtin_function_or_method"),
        (b"bytes", "state is a bytes"),
        ({"a": {(1, 2): 3}}, "state.a has the key (1, 2)"),
    ],
)
def test_what_cannot_travel_is_named_with_its_place(tree: Any, place: str) -> None:
    with pytest.raises(NotPortable) as raised:
        flatten(tree)
    assert place in str(raised.value)


json_values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys.filter(lambda key: isinstance(key, str)), inner, max_size=2)
    ),
)


@given(json_values)
def test_a_damaged_skeleton_is_a_value_error_or_harmless(skeleton: Any) -> None:
    try:
        unflatten(skeleton, [torch.ones(1)])
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    "skeleton",
    [
        {"__tensor__": 1},
        {"__tensor__": -1},
        {"__tensor__": "0"},
        {"__tensor__": None},
        {"__tuple__": 5},
        {"__pairs__": 5},
        {"__pairs__": [5]},
        {"__pairs__": [[1, 2, 3]]},
        {"__pairs__": [[[], 2]]},
        {"a": [{"__tensor__": 7}]},
    ],
)
def test_a_damaged_skeleton_is_refused(skeleton: Any) -> None:
    with pytest.raises(ValueError):
        unflatten(skeleton, [torch.ones(1)])


@given(tensors)
def test_a_description_makes_room_and_bytes_fill_it(tensor: Tensor) -> None:
    room = make_like(json.loads(json.dumps(describe(tensor))), CPU)
    as_bytes(room).copy_(as_bytes(tensor))
    assert same(room, tensor)


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"dtype": "float32"},
        {"dtype": "nn", "shape": []},
        {"dtype": "float31", "shape": []},
        {"dtype": None, "shape": [1]},
        {"dtype": "float32", "shape": 3},
        {"dtype": "float32", "shape": [-1]},
        {"dtype": "float32", "shape": ["x"]},
    ],
)
def test_what_describes_no_tensor_is_refused(description: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make_like(description, CPU)
