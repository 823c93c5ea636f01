"""Clocks that are set, or are not another machine's: no limit, pause or patience is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.api.apierror import ApiError
from tests.launcher.faked_vertex import Looks
from tests.launcher.supervision.policy_run import job
from tests.launcher.supervision.supervised import Fixture

HOUR = 3600.0


def test_a_clock_that_somebody_sets_is_no_silence(tmp_path: Path) -> None:
    """Nor is an hour in which the laptop slept."""
    looks: Looks = []
    fixture = Fixture(tmp_path, lambda n: looks)
    jumped = 0.0
    supervisor = fixture.supervisor(patience=60.0, ticks=lambda: fixture.clock.now - jumped)

    def jump() -> str:
        nonlocal jumped
        jumped += HOUR
        fixture.clock.now += HOUR
        raise ApiError("SW3013", "the network is not there yet", transient=True)

    looks += ["RUNNING", jump, "RUNNING", "SUCCEEDED"]
    assert supervisor.run()["state"] == "succeeded"
    assert len(fixture.attempts) == 1


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_this_machines_clock_may_be_an_hour_off_the_apis(tmp_path: Path, ahead: float) -> None:
    """No pause is longer for it, or left out; no limit is reached, and no patience lost."""

    def looks(number: int) -> Looks:
        if number == 1:
            return ["PENDING", "RUNNING", "FAILED: Internal error"]
        return ["PENDING", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]

    fixture = Fixture(tmp_path, looks)
    fixture.job = job(limits={"time": "30min"}, resubmit={"patience": "30min"})
    fixture.clock.now = began = 10 * HOUR
    assert fixture.supervisor(ahead=ahead).run()["state"] == "succeeded"
    first, second = fixture.attempts
    assert first.ended and second.started and second.ended
    assert 30 <= second.created - first.ended <= 60
    assert 0 < second.ended - second.started < 60
    assert fixture.clock.now - began < HOUR


def test_who_goes_on_with_a_run_may_have_a_clock_that_is_behind(tmp_path: Path) -> None:
    """What is on record is not waited for until it has happened here, too."""

    def looks(number: int) -> Looks:
        return ["FAILED: Internal error"] if number == 1 else ["RUNNING", "SUCCEEDED"]

    fixture = Fixture(tmp_path, looks)
    fixture.clock.now = began = 10 * HOUR
    first = fixture.supervisor(ahead=HOUR)
    first._sleep = lambda seconds: _interrupt(fixture)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert fixture.supervisor().run()["state"] == "succeeded"
    assert len(fixture.attempts) == 2
    assert fixture.clock.now - began < HOUR / 2


def _interrupt(fixture: Fixture) -> None:
    """Ends a supervisor once the first attempt has."""
    fixture.clock.sleep(10.0)
    if fixture.attempts[0].over:
        raise KeyboardInterrupt
