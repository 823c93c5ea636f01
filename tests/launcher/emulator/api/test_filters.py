"""Google's filter language, as far as it is spoken here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.api.filters import DEEPEST, parse_filter
from launcher.emulator.resources.errors import ApiError

FIELDS = {"state": "RUNNING", "name": "my_job_7", "labels.team": "red", "labels.a-b": "x"}


def holds(text: str) -> bool:
    return parse_filter(text).holds(FIELDS.get)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", True),
        ('state="RUNNING"', True),
        ("state=RUNNING name=other", False),
        ("state=RUNNING AND name=other", False),
        ("state=OTHER OR name=my_job_7", True),
        ("NOT state=OTHER", True),
        ("-state=RUNNING", False),
        ("NOT (state=RUNNING AND name=other)", True),
        # OR binds more tightly than AND, unlike in most languages.
        ("state=OTHER AND state=RUNNING OR name=my_job_7", False),
        ("(state=OTHER AND state=RUNNING) OR name=my_job_7", True),
        ("state=RUNNING OR state=RUNNING AND name=other", False),
        ('name:"my_job_*"', True),
        ("name:*_7", True),
        ("name:my*8", False),
        ("name:job", True),
        ("name:jab", False),
        ("labels.team:*", True),
        ("labels.other:*", False),
        ('labels."a-b"=x', True),
        ("labels.other!=red", True),
        ("labels.other=red", False),
        ("(((state=RUNNING)))", True),
    ],
)
def test_filters(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        *("state", "AND", "state=A AND", "OR state=A", "(state=A", "state=A)", "()", "NOT", "f(x)"),
        *("=A", 'state="A', "state=A AND OR state=B", "x" * 10_001),
        *("(" * 9_000, "NOT " * 2_000 + "state=A"),
    ],
)
def test_what_is_not_a_filter_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="filter"):
        parse_filter(text)


def test_brackets_may_be_nested_as_deep_as_anybody_needs() -> None:
    assert holds("(" * DEEPEST + "state=RUNNING" + ")" * DEEPEST)


TERMS = st.sampled_from(["state=RUNNING", "name=other", "labels.team:*"])
EXPRESSIONS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
            lambda it: f"({it[0]}) {it[1]} ({it[2]})"
        ),
        inner.map(lambda it: f"NOT ({it})"),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_brackets_make_a_filter_mean_what_python_would(text: str) -> None:
    python = text.replace("AND", "and").replace("OR", "or").replace("NOT", "not")
    for term, value in (("state=RUNNING", True), ("name=other", False), ("labels.team:*", True)):
        python = python.replace(term, str(value))
    assert holds(text) is eval(python)


@given(st.text(alphabet='()"\\ANDORT=:*a ', max_size=40))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        answer = holds(text)
    except ApiError as refusal:
        assert (refusal.code, refusal.status) == (400, "INVALID_ARGUMENT")
    else:
        assert answer in (True, False)
