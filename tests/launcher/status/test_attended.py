"""Who looks after a run, as people and programs are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import home
from launcher.status.attended import attended_by, in_words, unattended_since, unseen_end
from launcher.status.status import read_status
from launcher.supervision.attendance import STALE, Attendant, record_name
from launcher.supervision.controllers import ControllerRecord
from launcher.words import at_clock
from tests.launcher.recorded_run import record_attempt, record_run

LAUNCH = Attendant("me@laptop", 0, since=100.0, seen=1000.0, every=20.0)
CONTROLLER = Attendant("root@vm", 2, since=300.0, seen=1005.0, every=20.0)
LATE = 1000.0 + STALE * 20.0


def test_nothing_is_known_of_a_run_of_which_nobody_has_said_anything() -> None:
    assert attended_by({}, 1000.0) is None
    assert unattended_since({}, 1000.0) is None
    assert in_words(None) == ""


def test_all_who_are_there_are_named_and_since_when() -> None:
    attended = attended_by({1: LAUNCH, 2: CONTROLLER}, 1010.0)
    assert attended == [
        {"who": "me@laptop", "controller": None, "since": 100.0, "seen": 1000.0},
        {"who": "root@vm", "controller": 2, "since": 300.0, "seen": 1005.0},
    ]
    first, second = at_clock(100.0), at_clock(300.0)
    assert in_words(attended) == f"me@laptop, since {first}; controller 2, since {second}"


def test_who_has_left_or_is_silent_is_not_there() -> None:
    left = Attendant("me@laptop", 0, since=100.0, seen=1000.0, every=20.0, left=True)
    assert attended_by({1: left}, 1001.0) == []
    assert attended_by({1: LAUNCH, 2: CONTROLLER}, LATE) == [
        {"who": "root@vm", "controller": 2, "since": 300.0, "seen": 1005.0}
    ]
    assert in_words([]) == "nobody"


def test_of_two_lives_of_a_controller_the_last_one_counts() -> None:
    again = Attendant("root@vm", 2, since=1006.0, seen=1006.0, every=20.0)
    attended = attended_by({1: CONTROLLER, 2: again}, 1010.0)
    assert attended is not None and [it["since"] for it in attended] == [1006.0]
    over = Attendant("root@vm", 2, since=1006.0, seen=1006.0, every=20.0, left=True)
    assert attended_by({1: CONTROLLER, 2: over}, 1010.0) == []


def test_a_run_that_nobody_looks_after_says_who_did_last_and_what_to_do() -> None:
    assert unattended_since({1: LAUNCH, 2: CONTROLLER}, LATE) is None
    assert unattended_since({1: LAUNCH, 2: CONTROLLER}, 1065.0 + STALE * 20.0) == (
        "nobody looks after it: controller 2 was last heard of 3:00 ago; swell attach goes on with "
        "it [SW2037]"
    )


def test_of_what_a_run_has_left_alive_somebody_is_told_who_may_see_to_it() -> None:
    live = [{"attempt": 2}, {"attempt": 3}]
    controllers = [ControllerRecord(1, state="RUNNING"), ControllerRecord(2, state="SUCCEEDED")]
    assert unseen_end(live, controllers, {1: LAUNCH}, LATE) == [
        "the run has ended, and nobody has seen whether attempt 2 and attempt 3 and controller 1 "
        "did; swell attach looks, and cancels what goes on [SW2141]"
    ]
    assert unseen_end(live, controllers, {1: LAUNCH}, 1010.0) == [], "the launch sees to it"
    assert unseen_end([], controllers[1:], {}, LATE) == []


def test_a_run_that_died_with_its_machine_costs_until_it_was_last_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    directory = record_run("one", target="local", by=home.whoami())
    record_attempt(directory, "", state="RUNNING", started=1000.0, usd_per_hour=2.0)
    directory.write_json(record_name(1), LAUNCH.to_json() | {"seen": 4600.0})
    status = read_status(directory)
    assert status["state"] == "failed" and status["spent"]["usd"] == 2.0
