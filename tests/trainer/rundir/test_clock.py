"""The clock by which a run is dated: this machine's, but that nobody sets it."""

from __future__ import annotations

import time

import pytest

from trainer.rundir import clock
from trainer.rundir.clock import steady_clock

HOUR = 3600.0


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_who_sets_the_machines_clock_does_not_set_this_one(by: float) -> None:
    date, passed = 1_000_000.0, 50.0
    now = steady_clock(lambda: date, lambda: passed)
    assert now() == 1_000_000.0
    date, passed = date + by, passed + 7.0
    assert now() == 1_000_007.0
    assert steady_clock(lambda: date, lambda: passed)() == date, "who starts then believes it"


def test_it_begins_with_the_machines_and_goes_on() -> None:
    before = time.time()
    now = steady_clock()
    first, second = now(), now()
    # To the millisecond: a float of so many seconds since 1970 knows no more for certain.
    assert before - 0.001 <= first <= second <= time.time() + 0.001


def test_a_process_has_one() -> None:
    """So that what its writers date can be compared."""
    first, second = clock.now(), clock.now()
    assert first <= second
