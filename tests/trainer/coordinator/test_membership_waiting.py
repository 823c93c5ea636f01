"""Membership below min_workers: the state is saved, and those who stay wait."""

from __future__ import annotations

from tests.trainer.coordinator.membership_run import A, B, C, D, Run, drained, world
from trainer.coordinator.member import Phase
from trainer.protocol.signals import (
    Abort,
    Drain,
    Form,
    Left,
    Pause,
    Progress,
    Save,
    Stopped,
)


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
