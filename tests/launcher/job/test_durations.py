from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job.durations import (
    Steps,
    format_duration,
    format_moment,
    parse_duration,
    parse_moment,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("10min", 600), ("1h30min", 5400), ("250ms", 0.25), ("1.5h", 5400), ("1 d", 86400)],
)
def test_a_duration_has_units(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (30, "write 30s or 30min"),
        ("30", "write 30s or 30min"),
        (0.5, "write 0.5s or 0.5min"),
        (True, "write one like 30s"),
        ("5 parsecs", "write one like 30s"),
        ("", "write one like 30s"),
        ("-5s", "write one like 30s"),
        ("9e9d", "write one like 30s"),
        ("99999999999999d", "at most 366d"),
        (timedelta(seconds=-1), "zero or more"),
    ],
)
def test_what_is_not_a_duration_is_refused_with_a_remedy(value: object, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        parse_duration(value)


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=366)))
def test_a_duration_survives_its_text(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


def test_a_moment_is_steps_or_a_duration() -> None:
    assert parse_moment("150 steps") == Steps(150)
    assert parse_moment("1 step") == Steps(1)
    assert parse_moment("20s") == timedelta(seconds=20)
    assert format_moment(Steps(150)) == "150 steps"
    with pytest.raises(ValueError, match="write 150 steps or 150s"):
        parse_moment(150)
    with pytest.raises(ValueError, match="150 steps, 30s or 10min"):
        parse_moment("soon")
