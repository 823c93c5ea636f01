"""Values of a state travel as they are, or are refused where they are set."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.checkpoints.tree import flatten, unflatten
from trainer.engine.mistake import Mistake
from trainer.engine.state import State
from trainer.engine.values import Unportable, packed, unpacked


class Phase(enum.Enum):
    WARM = "warm"
    COLD = 2


@dataclass
class Best:
    score: float
    step: int = 0
    phase: Phase = Phase.WARM
    history: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    at: tuple[int, ...]


def carried(value: Any) -> Any:
    """The value after its way to another process: JSON, and tensors."""
    skeleton, tensors = flatten(packed(value, "state.value"))
    return unpacked(unflatten(json.loads(json.dumps(skeleton)), tensors))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    nan = isinstance(one, float | np.floating) and math.isnan(one) and math.isnan(other)
    return type(one) is type(other) and (nan or bool(one == other))


NUMBERS = ["bool", "int8", "int64", "uint8", "uint16", "uint64", "float16", "float32", "float64"]
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(Phase),
    st.builds(Best, st.floats(allow_nan=False), history=st.lists(st.floats(0, 1), max_size=3)),
    st.builds(Frozen, st.tuples(st.integers(0, 9))),
    st.sampled_from(NUMBERS).map(lambda name: np.dtype(name).type(1)),
    st.sampled_from(NUMBERS).map(lambda name: np.array([[0, 1], [1, 0]]).astype(name)),
    st.integers(0, 3).map(torch.arange),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(VALUES)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    assert same(value, carried(value))


@pytest.mark.parametrize(
    "value, words",
    [
        ({1}, "state.value is a set, which does not travel; write sorted"),
        ([0, lambda: 0], "state.value[1] is a function"),
        ({"a": {"b": object()}}, "state.value['a']['b'] is a object"),
        ({(1, 2): 0}, "state.value has the key (1, 2); keys must be strings or whole numbers"),
        (nn.Linear(1, 1), "a part with a state_dict must be given to State(…) from the beginning"),
        (Best(0.0, history=[{1}]), "state.value.history[0] is a set"),  # type: ignore[list-item]
        (np.array(["a"]), "state.value is of NumPy's type <U1"),
        (np.datetime64("2026-01-01"), "state.value is of NumPy's type datetime64"),
        (1j, "state.value is a complex"),
    ],
)
def test_what_does_not_travel_is_named(value: Any, words: str) -> None:
    with pytest.raises(Unportable) as error:
        packed(value, "state.value")
    assert words in str(error.value)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "nowhere:Phase", "builtins:dict", "json:decoder"]
)
@pytest.mark.parametrize("kind", ["enum", "dataclass"])
def test_nothing_but_an_enum_or_a_dataclass_is_made(name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"which this program does not have|no dataclass"):
        unpacked({"__kind__": kind, "type": name, "name": "x", "fields": {"args": "true"}})


def test_a_state_takes_them_and_names_what_it_refuses() -> None:
    state = State(model=nn.Linear(1, 1), score=0.0, best=Best(1.0), history=[])
    state.score = np.float32(0.5)
    state.best = Best(2.0, phase=Phase.COLD)
    other = State(model=nn.Linear(1, 1), score=0.0, best=None, history=[])
    other.load(state.export())
    assert (type(other.score), other.score) == (np.float32, 0.5)
    assert other.best == Best(2.0, phase=Phase.COLD)
    with pytest.raises(Mistake, match=r"state.score is a set"):
        state.score = {1, 2}
    assert state.score == 0.5
    state.history.append(object())
    with pytest.raises(Mistake, match=r"state.history\[0\] is a object"):
        state.require_portable()
    with pytest.raises(Mistake, match=r"state.history\[0\] is a object"):
        state.export()
