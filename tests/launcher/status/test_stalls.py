"""A stall is told of once, whatever a run waits for meanwhile, and again when it is over."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from launcher.status.stalls import TOLD_AFTER, Stalls
from launcher.status.waits import Wait
from launcher.words import at_clock

STEP = Wait("step 17; the last ones took 2 s each", 100.0, 700.0, "another world forms")
LOAD = Wait("1 of 2 slots are ready", 500.0)
NEVER = -math.inf


def test_what_soon_passes_is_not_told() -> None:
    stalls = Stalls()
    assert stalls.look(STEP, 99.0, 100.0 + TOLD_AFTER - 1.0) is None
    assert stalls.look(None, 399.5, 400.0) is None


def test_a_stall_says_what_is_waited_for_since_when_and_until_when() -> None:
    assert Stalls().look(STEP, 99.0, 400.0) == {
        "text": "is waiting for 5:00: step 17; the last ones took 2 s each; in 5:00 another world "
        f"forms (since {at_clock(100.0)})",
        "news": "stall",
        "over": False,
        "waits_for": "step 17; the last ones took 2 s each",
        "since": 100.0,
        "until": 700.0,
        "then": "another world forms",
    }
    message = Stalls().look(LOAD, NEVER, 900.0)
    assert message and message["until"] is message["then"] is None, "it may last"


def test_it_is_over_when_the_run_trains_and_not_between_two_waits() -> None:
    stalls = Stalls()
    assert stalls.look(STEP, 99.0, 400.0)
    assert stalls.look(None, 99.0, 450.0) is None, "another world forms"
    assert stalls.look(LOAD, 99.0, 1000.0) is None, "told already"
    assert stalls.look(None, 1040.0, 1050.0) == {
        "text": "goes on after 15:40 without a step",
        "news": "stall",
        "over": True,
        "since": 100.0,
        "until": 1040.0,
    }
    assert stalls.look(None, 1060.0, 1060.0) is None


@given(st.lists(st.tuples(st.floats(0.0, 400.0), st.booleans())))
def test_beginnings_and_ends_take_turns(course: list[tuple[float, bool]]) -> None:
    stalls, now, went_on_at, told = Stalls(), 0.0, NEVER, []
    since = 0.0
    for seconds, waits in course:
        now += seconds
        if not waits:
            went_on_at = since = now
        message = stalls.look(Wait("x", since) if waits else None, went_on_at, now)
        told += [message["over"]] if message else []
    assert told == [bool(n % 2) for n in range(len(told))]
