"""What files say, read strictly: a field that is not as documented counts as absent."""

from __future__ import annotations

from dataclasses import fields

import pytest

from launcher.records import EventRecord
from launcher.supervision.attempt import Attempt

WHOLE = {"event": "loss", "time": 3, "member": "a", "step": 7, "seconds": 0.5, "reason": "silent"}


def test_a_whole_event() -> None:
    assert EventRecord.of(WHOLE) == EventRecord(
        event="loss", time=3.0, member="a", step=7, seconds=0.5, reason="silent"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "7"),
        ("step", 7.0),
        ("step", True),
        ("step", None),
        ("seconds", "0.5"),
        ("seconds", float("nan")),
        ("member", 5),
        ("members", "a"),
        ("members", ["a", 5]),
        ("metrics", ["loss"]),
    ],
)
def test_a_damaged_field_is_absent_and_takes_no_other_with_it(name: str, value: object) -> None:
    without = {key: one for key, one in WHOLE.items() if key != name}
    assert EventRecord.of({**WHOLE, name: value}) == EventRecord.of(without)


def test_fields_of_a_newer_version_are_passed_over() -> None:
    newer = {"zone": "a", "self": 1, "__dataclass_self__": 2, "of": 3}
    assert EventRecord.of({**WHOLE, **newer}) == EventRecord.of(WHOLE)


def test_nothing_but_damage_is_an_empty_record() -> None:
    names = [field.name for field in fields(EventRecord)]
    assert EventRecord.of(dict.fromkeys(names, object())) == EventRecord()


def test_an_attempt_that_is_damaged_here_and_there() -> None:
    record = {"attempt": 2, "region": None, "job": 5, "state": "RUNNING", "code": "8", "started": 5}
    assert Attempt.from_json(record) == Attempt(attempt=2, state="RUNNING", started=5.0)
