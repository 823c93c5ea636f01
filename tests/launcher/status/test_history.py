"""A run's history, folded from its events."""

from __future__ import annotations

from launcher.status.history import History
from tests.launcher.status.events import RIDE, A, C, event, steps


def test_a_notice_that_a_second_leader_hears_of_is_counted_once() -> None:
    notice = {"member": "workerpool1-0", "reason": "SIGTERM"}
    told = [event("drain", at, **notice) for at in (10.0, 10.2, 300.0)]
    assert History(told).drains == 2


def test_each_generation_owns_the_steps_that_the_next_did_not_do_again() -> None:
    assert History(RIDE).stretches() == [(1, 1, 10), (2, 11, 14), (3, 15, 16)]


def test_members_are_as_they_were_last_heard_of() -> None:
    history = History(RIDE)
    assert (history.members[A], history.members[C]) == ("active", "lost")


def test_a_generation_that_nobody_saw_begin_began_where_its_steps_do() -> None:
    history = History([steps(4, 10.0, 21, [1.0, 0.5])])
    assert history.step == 22
    assert history.current and history.current.start == 20
