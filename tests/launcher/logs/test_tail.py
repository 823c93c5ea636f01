"""A log that is looked at again and again: each line once, none lost."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.logs.logline import Line
from launcher.logs.tail import Tail

WINDOW = 30


def line(time: int, key: str = "", replica: str = "workerpool0-0") -> Line:
    return Line(time, replica, "INFO", f"{time} {key}", key)


@dataclass(frozen=True)
class Printed:
    """A line of the simulated service, and when it can be seen there."""

    line: Line
    visible: int


@st.composite
def logs(draw: st.DrawFn) -> list[Printed]:
    """Lines that come late, share times and keys, and of replicas whose clocks are ahead."""
    printed = []
    ahead = draw(st.lists(st.integers(0, 200), min_size=3, max_size=3))
    for number in range(draw(st.integers(0, 40))):
        replica = draw(st.integers(0, 2))
        real = draw(st.integers(0, 150))
        written = real + ahead[replica]
        # Not before it was printed, and within the window of its own time.
        visible = draw(st.integers(real, written + WINDOW))
        printed.append(Printed(line(written, f"key-{number}", f"workerpool{replica}-0"), visible))
    return printed


def look(
    tail: Tail, printed: list[Printed], now: int, slow: int, page: int, clock: int
) -> list[Line]:
    """One look, as launcher.logs.cloudlog does it, at a service whose pages take their time."""
    since = tail.begin(clock)
    found: list[Line] = []
    cursor: tuple[int, str] | None = None
    while True:
        there = sorted(
            (p.line for p in printed if p.visible <= now), key=lambda one: (one.time, one.key)
        )
        rest = [
            one
            for one in there
            if (since is None or one.time >= since)
            and (cursor is None or (one.time, one.key) > cursor)
        ]
        found += tail.take(rest[:page])
        if len(rest) <= page:
            return found
        cursor = (rest[page - 1].time, rest[page - 1].key)
        now += slow


@given(
    logs(),
    st.lists(st.integers(0, 250), max_size=12),
    st.integers(1, 7),
    st.integers(0, 20),
    st.integers(0, 300),
)
def test_whatever_comes_late_within_the_window_is_read_once(
    printed: list[Printed], looks: list[int], page: int, slow: int, behind: int
) -> None:
    tail = Tail(window=WINDOW)
    found: list[Line] = []
    for now in [*sorted(looks), 1000]:
        new = look(tail, printed, now, slow, page, now - behind)
        assert [one.time for one in new] == sorted(one.time for one in new)
        found += new
    assert len(found) == len(set(found)), "a line was repeated"
    assert set(found) == {p.line for p in printed}, "a line was lost"


@given(logs(), st.integers(0, 100), st.lists(st.integers(0, 250), max_size=8))
def test_what_is_older_than_asked_for_is_never_read(
    printed: list[Printed], since: int, looks: list[int]
) -> None:
    tail = Tail(since, WINDOW)
    found = [one for now in [*sorted(looks), 1000] for one in look(tail, printed, now, 0, 5, now)]
    assert sorted(found, key=repr) == sorted(
        (p.line for p in printed if p.line.time >= since), key=repr
    )


def test_lines_of_one_time_are_told_apart_by_their_keys() -> None:
    tail = Tail(window=WINDOW)
    tail.begin(100)
    assert len(tail.take([line(5, "a"), line(5, "b"), line(5, "a")])) == 2
    assert tail.begin(101) == 5 - WINDOW
    assert tail.take([line(5, "a"), line(5, "c"), line(5, "b")]) == [line(5, "c")]


def test_what_comes_later_than_the_window_is_lost() -> None:
    tail = Tail(window=WINDOW)
    tail.begin(100)
    tail.take([line(100)])
    tail.begin(200)
    assert tail.take([line(100 - WINDOW - 1), line(100 - WINDOW)]) == [line(100 - WINDOW)]


def test_a_service_that_ignores_the_time_asked_for_repeats_nothing() -> None:
    tail = Tail(window=WINDOW)
    everything = [line(time) for time in range(0, 1000, 10)]
    tail.begin(1000)
    assert tail.take(everything) == everything
    tail.begin(1001)
    assert tail.take(everything) == []


@pytest.mark.parametrize("page", [1, 10, 1000])
def test_memory_does_not_grow_with_the_log(page: int) -> None:
    tail = Tail(window=WINDOW)
    tail.begin(10**6)
    for start in range(0, 10_000, page):
        tail.take(line(time) for time in range(start, start + page))
        assert len(tail._seen) <= WINDOW + page
