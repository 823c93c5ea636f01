"""What another version wrote: known formats are read, newer ones are refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import Format, FormatError, require_usable, version
from trainer.rundir.names import RUN

NO_FORMATS = st.none() | st.booleans() | st.floats() | st.text() | st.integers(max_value=0)


@given(st.integers(1, 9), st.data())
def test_what_is_known_is_read(number: int, data: st.DataObject) -> None:
    found = data.draw(st.integers(1, number))
    assert Format(number).found({"format": found}, "x") == found


def test_what_is_written_is_known() -> None:
    for one in (formats.RUN, formats.EVENTS, formats.SEGMENTS, formats.MANIFEST):
        assert one.found(one.stamp(), "x") == one.number


def test_without_a_number_it_is_the_first() -> None:
    assert Format(7).found({}, "x") == 1


@given(st.integers(1, 9), st.integers(1, 2**63))
def test_a_newer_one_is_refused_with_who_wrote_it_and_what_is_known(known: int, more: int) -> None:
    with pytest.raises(FormatError) as caught:
        Format(known).found({"format": known + more, "swell": "7.1"}, "gs://b/r/run.json")
    assert caught.value.newer
    assert str(caught.value) == (
        f"gs://b/r/run.json is of format {known + more}, written by Swell 7.1; "
        f"Swell {version()} knows up to {known}"
    )


@given(NO_FORMATS)
def test_what_is_no_format_is_damage(found: Any) -> None:
    with pytest.raises(ValueError, match="x is damaged") as caught:
        Format(2).found({"format": found}, "x")
    assert not isinstance(caught.value, FormatError)


@given(st.none() | st.integers() | st.text(st.characters(categories=["Cc", "L"]), max_size=60))
def test_whoever_wrote_it_the_message_is_one_short_printable_line(writer: Any) -> None:
    with pytest.raises(FormatError) as caught:
        Format(2).found({"format": 3, "swell": writer}, "x")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 120


@given(st.integers(formats.RUN.number + 1, 2**63))
def test_a_newer_run_is_not_opened(found: int) -> None:
    run_dir = RunDirectory("memory://newer-run")
    run_dir.write_json(RUN, {"id": "r1", "format": found})
    with pytest.raises(FormatError, match=rf"newer-run/run\.json is of format {found}"):
        run_dir.run()


def test_an_older_run_is_opened_and_does_not_go_on() -> None:
    run_dir = RunDirectory("memory://older-run")
    run_dir.write_json(RUN, {"id": "r1"})
    run = run_dir.run()
    with pytest.raises(FormatError, match="goes on with runs from format 2 on") as caught:
        require_usable(run, "x")
    assert not caught.value.newer


def test_a_run_of_today_goes_on() -> None:
    run = {"id": "r1", **formats.RUN.stamp()}
    require_usable(run, "x")
    assert formats.RUN.found(run, "x") == formats.RUN.number


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", version())
