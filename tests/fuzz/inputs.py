"""What decoders are given: noise, and valid inputs with something wrong in them."""

from __future__ import annotations

import copy
import json
import math
import random
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


def vary(value: Any, chance: random.Random, inside: bool = False) -> Any:
    """A variant of an input, or of some part of it: much faster than a new one is made.

    It has the type of ``value``; only ``inside`` of a dictionary types change, too.
    """
    if inside and chance.random() < 0.3:
        odd_ones: list[Any] = [*NUMBERS, *FLOATS, *TEXTS, None, True, [], {}, [[]]]
        return copy.deepcopy(chance.choice(odd_ones))
    if isinstance(value, bytes):
        return _vary_bytes(value, chance)
    if isinstance(value, str):
        return _vary_bytes(value.encode("utf-8", "surrogatepass"), chance).decode("latin-1")
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        return {**value, key: vary(value[key], chance, inside=True)}
    if isinstance(value, list | tuple) and value:
        at = chance.randrange(len(value))
        varied = vary(value[at], chance, inside)
        return type(value)([*value[:at], varied, *value[at + 1 :]])
    return value


def _vary_bytes(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice([0, 1, 1, 2, 8, 64]))
        piece = data[start:end]
        put = chance.choice(
            [b"", piece * 2, chance.randbytes(len(piece) or 1), chance.choice(_TOKENS), piece[::-1]]
        )
        data = data[:start] + put + data[end:]
    return data


# What means something in one of the formats.
_TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\r\n\r\n", b"\0", b"-", b"."]
_TOKENS += [b"9" * 30, b"1e999", b"null", b"NaN", b"\xff\xff\xff\xff", b"\x80", b"&a", b"*a", b"<<"]
