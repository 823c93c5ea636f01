"""Membership's limits: silence, workers that do not stop, and when a run ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.membership_run import A, B, C, Run, world
from trainer.membership import Phase
from trainer.policy import Policy
from trainer.signals import (
    Abort,
    Crashed,
    Done,
    Drain,
    Finish,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Ready,
    Release,
    Replace,
    Stopped,
    TaskFailed,
    Tick,
)
from trainer.world import MemberId

# --- silence ----------------------------------------------------------------------


def test_a_silent_member_is_suspected_when_no_step_completes_either() -> None:
    run = Run(expected=2, suspicion=2.0)
    running = run.start(A, B)
    assert run.wait(2.0, alive=(A,)) == []
    assert run.wait(0.5, alive=(A,)) == [Release(B, "silent for 2.5 s"), Abort(running)]


def test_a_step_proves_that_the_silent_live() -> None:
    run = Run(expected=2, suspicion=2.0)
    run.start(A, B)
    for step in range(1, 100):
        run.tell(Progress(A, 1, step))
        assert run.wait(1.0, alive=(A,)) == []


def test_a_member_that_speaks_is_not_suspected_however_long_a_step_takes() -> None:
    run = Run(expected=2, suspicion=2.0)
    run.start(A, B)
    assert run.wait(600.0) == []


def test_a_silent_member_outside_the_world_is_given_longer() -> None:
    run = Run(expected=1, max_workers=1, suspicion=2.0, idle_suspicion=10.0)
    run.start(A)
    run.ready(B)
    assert run.wait(10.0, alive=(A,)) == []
    assert run.wait(0.5, alive=(A,)) == [Release(B, "silent for 10.5 s")]
    assert run.phase is Phase.RUNNING


def test_whoever_was_given_up_is_told_so_when_it_speaks_again() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.wait(2.5, alive=(A,))
    assert run.tell(Progress(B, 1, step=3)) == [Release(B, "not a member")]
    assert run.tell(Left(B, "its connection broke")) == []


def test_a_replica_that_returns_under_its_old_name_is_a_new_member() -> None:
    run = Run(expected=2, admission_interval=0.0)
    run.start(A, B)
    run.tell(Left(A, "gone"))
    run.stopped(B)
    running = run.started()
    again = MemberId(A.replica, "second")
    assert run.ready(again) == [Pause(running)]
    assert run.stopped(B) == [Form(world(3, B, again))]


# --- workers that do not stop -----------------------------------------------------


def test_a_stuck_worker_is_replaced_when_others_hold_the_state() -> None:
    run = Run(expected=3, stop_limit=35.0)
    run.start(A, B, C)
    run.tell(Left(C, "gone"))
    run.stopped(A, step=5)
    assert run.wait(35.0) == []
    assert run.wait(0.5) == [Replace(B), Form(world(2, A))]
    run.started(step=5)
    run.tell(Crashed(B, "killed"))  # as ordered
    run.wait(5.0)
    assert run.tell(Ready(B)) == [Pause(world(2, A))]


def test_the_last_clean_copy_of_the_state_is_given_longer() -> None:
    run = Run(expected=3, stop_limit=35.0)
    run.start(A, B, C)
    run.tell(Left(C, "gone"))
    run.tell(Stopped(A, 1, step=5, clean=False))
    assert run.wait(69.0) == []
    assert run.stopped(B, step=5) == [Form(world(2, A, B))]


def test_and_then_it_is_replaced_too() -> None:
    run = Run(expected=2, stop_limit=35.0)
    run.start(A, B)
    run.tell(Left(B, "gone"))
    assert run.wait(71.0) == [Replace(A)]
    assert run.phase is Phase.WAITING
    assert run.tell(Ready(A)) == [Form(world(2, A))]


def test_a_pause_that_takes_too_long_is_broken_off_before_anything_is_killed() -> None:
    run = Run(expected=2, stop_limit=35.0)
    running = run.start(A, B)
    run.tell(Drain(B, "preemption", 600.0))
    assert run.wait(35.5) == [Abort(running)]
    assert run.stopped(A, B, step=5) == [Release(B, "drained"), Form(world(2, A))]
    assert run.told("generation_formed")[-1]["cause"] == "drain"


# --- the end ----------------------------------------------------------------------


def test_worlds_that_are_lost_again_and_again_without_a_step_end_the_run() -> None:
    run = Run(expected=1, setback_limit=3)
    run.ready(A)
    for generation in (1, 2):
        assert run.tell(Stopped(A, generation, step=0, failed="no route"))[-1] == Form(run.world)
    assert run.tell(Stopped(A, 3, step=0, failed="no route"))[-1] == Finish(
        "failed", "3 worlds in a row were lost before they completed a step", 0
    )
    assert run.phase is Phase.ENDED


def test_a_completed_step_forgives_all_setbacks() -> None:
    run = Run(expected=1, setback_limit=2)
    run.ready(A)
    for generation in range(1, 50):
        if generation % 2 == 0:
            run.tell(Progress(A, generation, step=generation))
        run.tell(Stopped(A, generation, step=generation // 2 * 2, failed="no route"))
        assert run.phase is Phase.FORMING


def test_the_run_succeeds_when_training_is_complete() -> None:
    run = Run(expected=2)
    run.start(A, B)
    done = Done(A, 1, step=900, metrics={"accuracy": 0.97})
    finish = Finish("succeeded", "training is complete", 900, {"accuracy": 0.97})
    assert run.tell(done) == [finish]
    assert run.told("finished") == [
        {"state": "succeeded", "reason": "training is complete", "step": 900}
    ]
    assert run.tell(Left(B, "gone"), Joined(C, 1), Tick()) == []


def test_an_error_in_the_users_code_ends_the_run() -> None:
    run = Run(expected=2)
    run.start(A, B)
    (finish,) = run.tell(TaskFailed(B, rank=1, step=12, reason="Traceback\nValueError: no"))
    assert isinstance(finish, Finish)
    assert finish.state == "failed"
    assert finish.reason == (
        "the task raised in rank 1 (workerpool1-1) at step 12\nTraceback\nValueError: no"
    )
    assert run.told("task_failed")[0]["rank"] == 1


# --- the limits -------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"min_workers": 0},
        {"min_workers": 5, "max_workers": 4},
        {"suspicion": 11.0, "idle_suspicion": 10.0},
        {"suspicion": 5.0, "stop_limit": 5.0},
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        Policy(**limits)
