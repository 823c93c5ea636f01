from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.logs.logline import SECOND, Line, format_time, parse_time, shown


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@given(st.integers(0, 4 * 10**18))
def test_a_time_survives_being_written(moment: int) -> None:
    assert parse_time(format_time(moment)) == moment


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_a_time_of_any_zone_is_read_as_python_reads_it(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since = aware - datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert parse_time(aware.isoformat()) == since // timedelta(microseconds=1) * 1000


def test_a_whole_second_is_before_its_fractions() -> None:
    times = ["2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000000001Z", "2026-01-01T12:00:00.1Z"]
    assert [parse_time(text) % SECOND for text in times] == [0, 1, 10**8]


@pytest.mark.parametrize(
    "text", ["", "now", "2026-01-01", "2026-02-30T12:00:00Z", "2026-01-01T25:00:00Z", "12:00:00"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|day|hour"):
        parse_time(text)


def says(message: str, colours: bool = False) -> str:
    line = Line(parse_time("2026-01-01T12:00:00Z"), "workerpool0-0", "INFO", message)
    return shown(line, colours)


def test_every_line_of_a_message_says_whose_it_is() -> None:
    assert says("one\n  two\n") == "12:00:00 workerpool0-0 one\n12:00:00 workerpool0-0   two"
    assert says("") == "12:00:00 workerpool0-0 "


def test_of_a_progress_bar_the_last_state_is_shown() -> None:
    assert says(" 10 %\r 20 %\r\r\n").endswith("workerpool0-0  20 %")


def test_colours_are_for_terminals_and_end_with_the_line() -> None:
    assert says("a \x1b[31mred\x1b[0m one").endswith("a red one")
    assert says("a \x1b[31mred one", colours=True).endswith("a \x1b[31mred one\x1b[0m")


@given(st.text(alphabet=st.sampled_from("\x1b[]()0123;?mHJKl\x07\x08\x9b\x9dab\r\n\t \u202e")))
def test_a_log_cannot_command_the_terminal(message: str) -> None:
    assert says(message).replace("\n", "").isprintable()
    with_colours = says(message, colours=True).replace("\n", "")
    for piece in with_colours.split("\x1b")[1:]:
        assert (
            piece.startswith("[")
            and "m" in piece
            and set(piece[1 : piece.index("m")]) <= set("0123456789;")
        )
