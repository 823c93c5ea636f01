"""What decoders are given: noise, and valid inputs with something wrong in them."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st

DEEP = 3000  # levels; deeper than Python recurses
NUMBERS = [0, -1, 1, 2**31 - 1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400]
FLOATS = [0.5, -0.0, 1e308, 5e-324, math.nan, math.inf, -math.inf]
TEXTS = ["", " ", "\0", "\x1b[2J", "a" * 5000, "../../x", "²", "٣", "\ud800", "NaN", "1e999", "{{"]

odd: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False, [], {}, [[]], *NUMBERS, *FLOATS, *TEXTS]),
    st.integers(-3, 200),
    st.floats(),
    st.text(max_size=20),
)
anything: st.SearchStrategy[Any] = st.recursive(
    odd,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, *valid: Any) -> Any:
    """One of the valid values, with some of its parts replaced, removed or doubled."""
    value = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 3))):
        value = _change(draw, value)
    return value


def _change(draw: st.DrawFn, value: Any) -> Any:
    places = list(_places(value))
    if not places:
        return copy.deepcopy(draw(anything))
    inside, key = draw(st.sampled_from(places))
    how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if how == "remove":
        del inside[key]
    elif how == "add" and isinstance(inside, dict):
        inside[draw(st.text(max_size=8))] = copy.deepcopy(draw(anything))
    elif how == "add":
        inside.insert(key, copy.deepcopy(draw(anything)))
    else:
        inside[key] = copy.deepcopy(draw(anything))
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        keys: Any = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def as_json(value: Any) -> bytes:
    """JSON as a hostile program writes it."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, *valid: bytes) -> bytes:
    """One of the valid inputs with bytes changed, cut out, put in or repeated; or just noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        put = draw(st.binary(max_size=6) | st.just(data[start:end] * 3) | st.just(b""))
        data = data[:start] + put + data[end:]
    return data


def json_of(*valid: Any) -> st.SearchStrategy[bytes]:
    """JSON whose meaning is nearly right, or whose text is, or that is deep or doubled."""
    texts = [as_json(one) for one in valid]
    return st.one_of(
        changed(*valid).map(as_json),
        damaged(*texts),
        anything.map(as_json),
        st.sampled_from([b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"1" * 5000]),
        st.sampled_from(texts).map(lambda text: text[:-1] + b"," + text[1:]),  # everything twice
    )
