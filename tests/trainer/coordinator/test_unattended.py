"""A leader says that nobody looks after the run, and that somebody does again."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.coordinator.unattended import AFTER, EVERY, STALE, Attended, Told

LIMIT = STALE * EVERY[0]


def one(beat: int = 1, **more: Any) -> dict[str, Any]:
    return {"who": "me@here", "beat": beat, "every": EVERY[0], "left": False, **more}


def test_who_beats_is_there_and_nothing_is_told() -> None:
    attended = Attended()
    looks = [attended.look({"1": one(beat)}, beat * EVERY[0]) for beat in range(200)]
    assert looks == [None] * 200


def test_a_launch_that_is_gone_is_told_of_once_and_when_another_is_there() -> None:
    attended = Attended()
    assert attended.look({"1": one()}, 0.0) is None
    assert attended.look({"1": one()}, LIMIT - 1) is None, "it may beat late"
    assert attended.look({"1": one()}, LIMIT - 2 + AFTER) is None
    assert attended.look({"1": one()}, LIMIT - 1 + AFTER) == Told(AFTER, over=False)
    assert attended.look({"1": one()}, 9 * AFTER) is None
    both = {"1": one(), "2": one()}
    assert attended.look(both, 10 * AFTER) == Told(10 * AFTER - (LIMIT - 1), over=True)
    assert attended.look(both, 10 * AFTER + 1) is None


def test_who_has_left_is_gone_at_once() -> None:
    attended = Attended()
    assert attended.look({"1": one()}, 0.0) is None
    left = {"1": one(beat=2, left=True)}
    assert attended.look(left, AFTER - 1) is None
    assert attended.look(left, AFTER) == Told(AFTER, over=False)


def test_a_new_leader_gives_everybody_the_time_to_beat() -> None:
    attended = Attended()
    old = {str(number): one(left=True) for number in range(3)}
    assert attended.look(old, 1000.0) is None
    assert attended.look(old, 1000.0 + AFTER) == Told(AFTER, over=False)


def test_of_a_run_in_which_nobody_says_so_nothing_is_known() -> None:
    attended = Attended()
    assert [attended.look({}, at * AFTER) for at in range(5)] == [None] * 5


@pytest.mark.parametrize("every", [None, "x", float("nan"), float("inf"), -5, 1e300, True])
def test_whatever_a_record_says_its_writer_is_gone_some_time(every: Any) -> None:
    attended = Attended()
    record = {"1": {"beat": [], "every": every}}
    assert attended.look(record, 0.0) is None
    told = [attended.look(record, at) for at in (STALE * EVERY[1], STALE * EVERY[1] + AFTER)]
    assert [it.over for it in told if it is not None] == [False]
