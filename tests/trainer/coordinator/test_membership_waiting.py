"""Membership below min_workers: the state is saved, and those who stay wait."""

from __future__ import annotations

import math

from tests.trainer.coordinator.membership_run import A, B, C, D, Run, drained, world
from trainer.coordinator.member import Phase
from trainer.coordinator.team import SAVING
from trainer.protocol.signals import (
    Abort,
    Drain,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Ready,
    Save,
    Stopped,
)
from trainer.protocol.world import MemberId


def test_below_min_workers_the_state_is_saved_and_the_survivors_wait() -> None:
    run = Run(expected=3, min_workers=2, hold_off=1.0)
    run.start(A, B, C)
    run.step(Left(A, "gone"), Left(B, "gone"))
    assert run.stopped(C, step=40) == [Save(C)]
    assert run.phase is Phase.WAITING
    assert run.emitted("waiting") == [{"slots": 1, "min_workers": 2}]
    assert run.wait(300.0) == []
    assert run.ready(D) == [Form(world(2, C, D))]
    run.started(step=40)
    assert run.emitted("resumed")[-1]["lost_steps"] == 0


def test_the_most_advanced_clean_state_is_saved_even_by_one_who_leaves() -> None:
    run = Run(expected=3, min_workers=3)
    run.start(A, B, C)
    run.step(Drain(B, "preemption", 30.0))
    run.step(Stopped(A, 1, step=9, clean=False), Stopped(B, 1, step=9, clean=True))
    orders = run.step(Stopped(C, 1, step=9, clean=False))
    assert orders == [Save(B, deadline=30.0), drained(B)]


def test_one_who_stays_rather_saves_than_one_who_leaves() -> None:
    run = Run(expected=2, min_workers=2)
    run.start(A, B)
    run.step(Drain(A, "preemption", 30.0))
    assert run.stopped(A, B, step=9) == [Save(B), drained(A)]


def test_when_all_are_taken_away_they_save_together_in_what_is_left_of_the_notice() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    assert run.step(*(Drain(one, "SIGTERM", 15.0) for one in (A, B, C))) == [Pause(running)]
    run.now += 2.0
    orders = run.stopped(A, B, C, step=8)
    assert orders[:3] == [Save(one, rank, 3, 13.0) for rank, one in enumerate((A, B, C))]
    assert orders[3:] == [drained(one) for one in (A, B, C)]
    assert run.phase is Phase.WAITING


def leaving_to(newcomer: MemberId, deadline: float = 15.0, step: int = 8) -> Run:
    """All who hold the state of a step leave, when somebody else has just become ready."""
    run = Run(expected=1)
    running = run.start(A)
    run.step(Progress(A, 1, step=step), Joined(newcomer, 1))
    assert run.step(Drain(A, "SIGTERM", deadline)) == [Pause(running)]
    assert run.step(Ready(newcomer)) == []
    return run


def test_newcomers_wait_for_what_those_save_who_leave() -> None:
    run = leaving_to(B)
    run.now += 2.0
    assert run.stopped(A, step=9) == [Save(A, deadline=13.0), drained(A)]
    assert run.wait(12.5) == []
    assert run.wait(0.5) == [Form(world(2, B))]
    run.started(step=9)
    assert run.emitted("resumed")[-1]["lost_steps"] == 0
    assert run.emitted("generation_formed")[-1]["cause"] == "drain"


def test_newcomers_who_become_ready_later_wait_for_it_as_well() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, step=8), Drain(A, "SIGTERM", 15.0))
    assert run.stopped(A, step=9) == [Save(A, deadline=15.0), drained(A)]
    assert run.ready(B) == [] and run.wait(14.5) == []
    assert run.wait(0.5) == [Form(world(2, B))]


def test_one_in_the_world_that_never_got_the_state_waits_as_a_newcomer_does() -> None:
    """It was let in, and all of it left before it had begun."""
    run = Run(expected=1, admission_interval=0.0)
    run.start(A)
    run.ready(B)
    run.stopped(A, step=9)
    run.step(Drain(A, "SIGTERM", 15.0), Stopped(B, 2, step=0, clean=False, failed="broken"))
    orders = run.step(Stopped(A, 2, step=9, clean=True, failed="broken"))
    assert orders == [Save(A, deadline=15.0), drained(A)]
    assert run.wait(14.5) == []
    assert run.wait(0.5) == [Form(world(3, B))]


def test_what_leaves_without_a_deadline_is_waited_for_as_long() -> None:
    run = leaving_to(B, deadline=math.inf)
    assert run.stopped(A, step=9)[0] == Save(A)
    assert run.wait(SAVING - 0.5) == []
    assert run.wait(0.5) == [Form(world(2, B))]


def test_nobody_waits_where_no_step_is_completed_or_the_state_is_lost() -> None:
    run = leaving_to(B, step=0)
    assert run.stopped(A, step=0) == [drained(A), Form(world(2, B))]
    run = leaving_to(B)
    orders = run.step(Stopped(A, 1, step=9, clean=False))
    assert orders == [drained(A), Form(world(2, B))]


def test_those_who_stay_save_together() -> None:
    run = Run(expected=3, min_workers=3)
    run.start(A, B, C)
    run.step(Left(A, "gone"))
    assert run.stopped(B, C, step=8) == [Save(B, 0, 2), Save(C, 1, 2)]


def test_only_the_newest_state_is_saved() -> None:
    run = Run(expected=3, min_workers=3)
    run.start(A, B, C)
    run.step(Left(A, "gone"), Stopped(B, 1, step=8, clean=True))
    assert run.step(Stopped(C, 1, step=9, clean=True)) == [Save(C)]


SAVES = {"saving": 6.0}


def test_a_step_that_leaves_no_time_to_save_is_broken_off() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    for step in (1, 2):
        run.now += 10.0
        run.step(Progress(A, 1, step), Progress(B, 1, step, saving=6.0))
    assert run.step(Drain(A, "SIGTERM", 15.0)) == [Pause(running)], "B stays: nothing to save"
    run.step(Drain(B, "SIGTERM", 15.0))
    assert run.wait(0.1, shown={B: SAVES}) == [Abort(running)]


def test_a_step_that_takes_longer_than_it_should_is_broken_off_in_time_to_save() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.step(Progress(A, 1, 1), Progress(B, 1, 1, saving=6.0))
    assert run.step(*(Drain(one, "SIGTERM", 15.0) for one in (A, B))) == [Pause(running)]
    assert run.wait(8.9, shown={B: SAVES}) == []
    assert run.wait(0.2, shown={B: SAVES}) == [Abort(running)]
