"""JSON that nobody in his right mind has written."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir.untrusted import DEPTH, parse_json

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(plain)
def test_what_swell_writes_is_read(value: Any) -> None:
    written = json.dumps(value)
    assert json.dumps(parse_json(written.encode())) == written


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff", "decode"),
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": {"b": 1, "b": 1}}', "given twice"),
        (b"18446744073709551616", "too large"),
        (b"-99999999999999999999", "too large"),
        (b"9" * 1_000_000, "too large"),
        (b"[" * DEPTH + b"[" + b"]" * DEPTH + b"]", "nested"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"a":' * DEPTH + b"[1]" + b"}" * DEPTH, "nested"),
        (b"{} {}", "Extra data"),
    ],
    ids=range(12),
)
def test_what_nobody_can_work_with_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_json(data)
    assert len(str(error.value)) < 200


def test_brackets_in_texts_are_no_levels() -> None:
    assert parse_json(json.dumps(["[" * 5000, {"{" * 5000: 1}])) == ["[" * 5000, {"{" * 5000: 1}]
    deepest = b"[" * DEPTH + b"]" * DEPTH
    assert parse_json(b"[" + b"[]," * 5000 + deepest[1:-1] + b"]")


def test_metrics_of_a_training_that_diverged_are_read() -> None:
    assert parse_json(b"[Infinity, 1e999]") == [math.inf, math.inf]
    assert math.isnan(parse_json(b"NaN"))
