"""Membership's limits: silence, workers that do not stop, and when a run ends."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.coordinator.membership_run import A, B, C, Run, Shown, drained, given_up, world
from trainer.coordinator import limits
from trainer.coordinator.limits import Limits, Timeouts
from trainer.coordinator.member import Phase
from trainer.protocol.signals import (
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
    Replace,
    Stopped,
    TaskFailed,
    Tick,
)
from trainer.protocol.world import MemberId

# --- silence ----------------------------------------------------------------------


def test_a_silent_member_is_suspected_when_no_step_completes_either() -> None:
    run = Run(expected=2, suspicion=2.0)
    running = run.start(A, B)
    assert run.wait(2.0, alive=(A,)) == []
    assert run.wait(0.5, alive=(A,)) == [
        given_up(B, "silent for 2.5 s"),
        Abort(running),
    ]


def test_a_time_in_which_nobody_could_be_heard_is_nobodys_silence() -> None:
    run = Run(expected=2, suspicion=2.0)
    running = run.start(A, B)
    run.now += 10.0
    run.machine.members.excuse(10.0)
    assert run.wait(2.0, alive=(A,)) == []
    assert run.wait(0.5, alive=(A,)) == [given_up(B, "silent for 2.5 s"), Abort(running)]


def test_a_step_proves_that_the_silent_live() -> None:
    run = Run(expected=2, suspicion=2.0)
    run.start(A, B)
    for step in range(1, 100):
        run.step(Progress(A, 1, step))
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
    assert run.wait(0.5, alive=(A,)) == [given_up(B, "silent for 10.5 s")]
    assert run.phase is Phase.RUNNING


def test_whoever_was_given_up_is_told_so_when_it_speaks_again() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.wait(2.5, alive=(A,))
    assert run.step(Progress(B, 1, step=3)) == [given_up(B, "not a member")]
    assert run.step(Left(B, "its connection broke")) == []


def test_a_replica_that_returns_under_its_old_name_is_a_new_member() -> None:
    run = Run(expected=2, admission_interval=0.0)
    run.start(A, B)
    run.step(Left(A, "gone"))
    run.stopped(B)
    running = run.started()
    again = MemberId(A.replica, "second")
    assert run.ready(again) == [Pause(running)]
    assert run.stopped(B) == [Form(world(3, B, again))]


# --- workers that hang --------------------------------------------------------------


def test_a_worker_that_is_stopped_by_a_signal_is_found_though_its_agent_lives() -> None:
    run = Run(expected=2, suspicion=2.0)
    running = run.start(A, B)
    frozen = {B: {"frozen": True}}
    assert run.wait(2.0, shown=frozen) == []
    assert run.wait(1.0, shown=frozen) == [Abort(running)]
    assert run.emitted("loss")[-1]["reason"] == "a worker has been stopped for 2.5 s"
    run.stopped(A, step=7)
    assert run.wait(1.0, shown=frozen) == [Replace(B)]
    assert run.step(Crashed(B, "killed", spare=True), Ready(B)) == [Form(world(2, A, B))]
    assert len(run.emitted("loss")) == 1


def test_a_worker_that_goes_on_in_time_is_left_alone() -> None:
    run = Run(expected=2, suspicion=2.0)
    run.start(A, B)
    for _ in range(5):
        assert run.wait(2.0, shown={B: {"frozen": True}}) == []
        assert run.wait(0.5) == []


def test_a_worker_that_shows_no_life_is_given_longer_than_an_agent() -> None:
    run = Run(expected=2, suspicion=2.0, hang=10.0)
    running = run.start(A, B)
    for tenth in range(1, 20):
        assert run.wait(0.5, shown={B: {"quiet": tenth / 2}}) == []
    assert run.wait(1.5, shown={B: {"quiet": 10.5}}) == [Abort(running)]
    assert run.emitted("loss")[-1]["member"] == B.replica


def test_a_step_proves_that_a_quiet_worker_lives() -> None:
    run = Run(expected=2)
    run.start(A, B)
    for step in range(1, 50):
        run.step(Progress(B, 1, step, quiet=100.0, frozen=True))
        assert run.wait(1.0, shown={B: {"quiet": 100.0, "frozen": True}}) == []


def test_a_world_in_which_nothing_moves_although_all_live_is_broken_off() -> None:
    run = Run(expected=2, stall=600.0)
    running = run.start(A, B, step=3)
    run.wait(1.0)
    run.step(Progress(A, 1, 4))
    assert run.wait(600.0) == []
    assert run.wait(0.5) == [Abort(running)]
    assert run.emitted("stalled") == [{"generation": 1, "step": 4, "seconds": 600.5}]


def test_an_evaluation_that_takes_longer_than_a_stall_is_not_broken_off_for_ever() -> None:
    run = Run(expected=2, stall=600.0)
    run.start(A, B, step=3)
    run.wait(1.0)
    run.step(Progress(A, 1, 4))
    assert run.wait(601.0) == [Abort(run.world)]
    run.stopped(A, B, step=4)
    run.started(step=4)
    assert run.wait(1199.0) == [], "twice as long"
    run.step(Progress(A, 2, 5))
    assert (run.phase, run.emitted("loss")) == (Phase.RUNNING, [])


def test_a_worker_alone_that_evaluates_for_hours_is_told_of_and_not_broken_off() -> None:
    run = Run(expected=1, stall=600.0)
    run.start(A, step=3)
    run.wait(1.0)
    run.step(Progress(A, 1, 4))
    assert run.wait(7200.0) == []
    told = [(one["seconds"], one["member"]) for one in run.emitted("stalled")]
    assert told == [(seconds, A.replica) for seconds in (600.5, 1200.5, 2400.5, 4800.5)]
    run.step(Progress(A, 1, 5))
    assert (run.phase, run.machine.generation) == (Phase.RUNNING, 1)


@pytest.mark.parametrize("holders", [(A,), (A, B)])
def test_who_evaluates_for_long_is_not_killed_for_a_newcomer(
    holders: tuple[MemberId, ...],
) -> None:
    run = Run(expected=len(holders), stall=600.0)
    running = run.start(*holders, step=3)
    run.wait(10.0)
    run.step(Progress(A, 1, 4))
    assert run.ready(C) == [Pause(running)]
    assert run.wait(5000.0) == [Abort(running)]
    assert run.stopped(*holders, step=4) == [Form(world(2, *holders, C))]
    assert run.emitted("loss") == []


def test_the_last_one_is_not_killed_because_it_evaluates_when_the_other_is_lost() -> None:
    run = Run(expected=2, stall=600.0)
    run.start(A, B, step=3)
    run.wait(1.0)
    run.step(Progress(A, 1, 4))
    run.step(Left(B, "gone"))
    assert run.wait(5000.0, alive=(A,)) == []
    assert run.stopped(A, step=4) == [Form(world(2, A))]


def test_the_first_step_may_compile_for_longer() -> None:
    run = Run(expected=2, stall=600.0)
    run.start(A, B)
    assert run.wait(3500.0) == []
    assert run.wait(200.0) == [Abort(run.world)]


def test_a_hung_worker_of_a_member_that_comes_with_an_old_world_is_killed_too() -> None:
    run = Run(expected=2, min_workers=2)
    running = run.start(A, B)
    run.step(Left(B, "its connection broke"))
    run.stopped(A)
    assert run.phase is Phase.WAITING
    assert run.step(Joined(B, 1, running)) == [Abort(running)]
    frozen = {B: {"frozen": True}}
    assert run.wait(1.5, shown=frozen) == []
    assert run.wait(1.0, shown=frozen) == [Replace(B)]
    assert run.step(Crashed(B, "killed", spare=True), Ready(B)) == [Form(world(2, A, B))]


def test_a_worker_that_is_stopped_before_it_is_ready_is_replaced_too() -> None:
    run = Run(expected=1, suspicion=2.0)
    run.start(A)
    run.step(Joined(B, 1))
    assert run.wait(2.0, shown={B: {"frozen": True}}) == []
    assert run.wait(1.0, shown={B: {"frozen": True}}) == [Replace(B)]
    run.step(Crashed(B, "killed"))
    assert [loss["member"] for loss in run.emitted("loss")] == [B.replica]
    assert run.phase is Phase.RUNNING


# --- workers that do not stop -----------------------------------------------------

WAITS = {"waiting": True}


def test_a_worker_stuck_in_a_broken_collective_is_killed_when_others_hold_the_state() -> None:
    run = Run(expected=3, abort=3.0)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    run.stopped(A, step=5)
    assert run.wait(3.0, shown={B: WAITS}) == []
    assert run.wait(0.5, shown={B: WAITS}) == [Replace(B)]
    assert run.step(Crashed(B, "killed")) == [Form(world(2, A))]
    run.started(step=5)
    run.wait(5.0)
    assert run.step(Ready(B)) == [Pause(world(2, A))]


def test_its_warm_spare_is_waited_for() -> None:
    run = Run(expected=3, abort=3.0, hold_off=1.0)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    run.stopped(A, step=5)
    assert run.wait(3.5, shown={B: WAITS}) == [Replace(B)]
    assert run.step(Crashed(B, "killed", spare=True)) == []
    assert run.step(Ready(B)) == [Form(world(2, A, B))]


def test_an_agent_that_does_not_carry_out_the_kill_is_not_waited_for() -> None:
    run = Run(expected=2, abort=3.0, hold_off=1.0)
    run.start(A, B)
    run.step(Stopped(A, 1, step=5, failed="connection reset"))
    assert run.wait(3.5, shown={B: WAITS}) == [Replace(B)]
    assert run.wait(1.5, shown={B: WAITS}) == [Form(world(2, A))]


def test_the_last_clean_copy_of_the_state_is_given_longer() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    run.step(Stopped(A, 1, step=5, clean=False))
    limit = run.machine.timeouts(run.now).last_copy
    assert limit > run.machine.timeouts(run.now).gloo_timeout
    assert run.wait(limit, shown={B: WAITS}) == []
    assert run.stopped(B, step=5) == [Form(world(2, A, B))]


def test_and_then_it_is_killed_too() -> None:
    run = Run(expected=2, hold_off=1.0)
    run.start(A, B)
    run.step(Left(B, "gone"))
    limit = run.machine.timeouts(run.now).last_copy
    assert run.wait(limit + 0.5, shown={A: WAITS}) == [Replace(A)]
    run.wait(1.5, shown={A: WAITS})
    assert run.phase is Phase.WAITING
    assert run.step(Ready(A)) == [Form(world(2, A))]


def test_a_worker_that_computes_will_come_to_notice() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    run.stopped(A, step=5)
    assert run.wait(run.machine.timeouts(run.now).linger) == []
    assert run.wait(0.5) == [Replace(B)]


def test_a_pause_that_takes_too_long_is_broken_off_before_anything_is_killed() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.step(Drain(B, "preemption", 600.0))
    assert run.wait(run.machine.timeouts(run.now).pause + 0.5) == [Abort(running)]
    assert run.stopped(A, B, step=5) == [drained(B), Form(world(2, A))]
    assert run.emitted("generation_formed")[-1]["cause"] == "drain"


def test_a_step_that_would_outlast_the_notice_is_broken_off_at_once() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.wait(100.0)
    run.step(Progress(A, 1, 1))  # a step takes 100 s
    run.wait(50.0)
    assert run.step(Drain(B, "preemption", 15.0)) == [Abort(running)]
    assert run.stopped(A, B, step=1) == [drained(B), Form(world(2, A))]
    assert run.emitted("resumed")[0]["cause"] == "start"
    run.started(step=1)
    assert run.emitted("resumed")[-1] == {
        "generation": 2,
        "world_size": 1,
        "cause": "drain",
        "step": 1,
        "lost_steps": 0,
    }


def test_a_step_that_ends_before_the_deadline_is_let_end() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.wait(100.0)
    run.step(Progress(A, 1, 1))
    run.wait(90.0)
    assert run.step(Drain(B, "preemption", 15.0)) == [Pause(running)]


# --- worlds that do not form --------------------------------------------------------


def test_workers_that_wait_for_one_another_for_too_long_form_again() -> None:
    run = Run(expected=2, forming=60.0)
    run.ready(A, B)
    shown = {A: WAITS, B: WAITS}
    assert run.wait(60.0, shown=shown) == []
    assert run.wait(0.5, shown=shown) == [Abort(world(1, A, B))]


def test_one_that_reads_a_checkpoint_meanwhile_is_waited_for() -> None:
    run = Run(expected=2, forming=60.0)
    run.ready(A, B)
    assert run.wait(300.0, shown={B: WAITS}) == []


def test_a_transfer_that_moves_may_take_its_time() -> None:
    run = Run(expected=2, forming=60.0)
    run.ready(A, B)
    for megabytes in range(100):
        shown: Shown = {A: WAITS, B: {"waiting": True, "received": megabytes}}
        assert run.wait(30.0, shown=shown) == []


# --- the end ----------------------------------------------------------------------


def test_worlds_that_are_lost_again_and_again_without_a_step_end_the_run() -> None:
    run = Run(expected=1, setback_limit=3)
    run.ready(A)
    for generation in (1, 2):
        assert run.step(Stopped(A, generation, step=0, failed="no route"))[-1] == Form(run.world)
    assert run.step(Stopped(A, 3, step=0, failed="no route"))[-1] == Finish(
        "failed", "3 worlds in a row were lost before they completed a step [SW5002]", 0
    )
    assert run.phase is Phase.ENDED


def test_a_completed_step_forgives_all_setbacks() -> None:
    run = Run(expected=1, setback_limit=2)
    run.ready(A)
    for generation in range(1, 50):
        if generation % 2 == 0:
            run.step(Progress(A, generation, step=generation))
        run.step(Stopped(A, generation, step=generation // 2 * 2, failed="no route"))
        assert run.phase is Phase.FORMING


def test_the_run_succeeds_when_training_is_complete() -> None:
    run = Run(expected=2)
    run.start(A, B)
    done = Done(A, 1, step=900, metrics={"accuracy": 0.97})
    finish = Finish("succeeded", "training is complete", 900, {"accuracy": 0.97})
    assert run.step(done) == [finish]
    assert run.emitted("finished") == [
        {"state": "succeeded", "reason": "training is complete", "step": 900}
    ]
    assert run.step(Left(B, "gone"), Joined(C, 1), Tick()) == []


def test_training_that_is_complete_is_no_success_while_its_end_is_not_saved() -> None:
    run = Run(expected=1)
    run.start(A)
    done = Done(A, 1, step=40, metrics={"loss": 0.5}, unsaved="No space left on device")
    assert run.step(done) == [Finish("failed", "No space left on device", 40, {"loss": 0.5})]


def test_an_error_in_the_users_code_ends_the_run() -> None:
    run = Run(expected=2)
    run.start(A, B)
    (finish,) = run.step(TaskFailed(B, rank=1, step=12, reason="Traceback\nValueError: no"))
    assert isinstance(finish, Finish)
    assert finish.state == "failed"
    assert finish.reason == (
        "the program raised in rank 1 (workerpool1-1) at step 12 [SW5001]\n"
        "Traceback\nValueError: no"
    )
    assert run.emitted("task_failed")[0]["rank"] == 1


# --- the limits -------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"min_workers": 0},
        {"min_workers": 5, "max_workers": 4},
        {"suspicion": 11.0, "idle_suspicion": 10.0},
        {"heartbeat": 2.0, "suspicion": 2.0},
        {"heartbeat": 0.0},
        {"heartbeat": -1.0},
        {"lease_renew": 0.0},
        {"lease_timeout": 1.0},
        {"lease_timeout": 5.0, "lease_renew": 2.0},
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        Limits(**limits)


@given(
    suspicion=st.floats(0.4, 120.0),
    hang=st.floats(0.1, 600.0),
    stall=st.floats(1.0, 86400.0),
    pace=st.floats(0.0, 7200.0),
)
def test_the_limits_are_a_hierarchy_for_steps_of_any_length(
    suspicion: float, hang: float, stall: float, pace: float
) -> None:
    limits = Limits(
        suspicion=suspicion,
        idle_suspicion=max(10.0, 3 * suspicion),
        hang=hang,
        stall=stall,
        lease_timeout=2 * suspicion + 5.0,
    )
    they = limits.timeouts(pace)
    assert limits.heartbeat < they.suspicion < they.hang <= they.stall
    assert they.suspicion + they.abort < they.gloo_timeout < they.last_copy < they.pause
    assert they.pause < they.linger < they.stall
    assert they.gloo_timeout < they.forming
    assert pace < they.pause


def test_the_table_in_the_docstring_is_what_the_limits_say() -> None:
    rows = re.findall(r"^(\w+) +([\d.]+) +([\d.]+) +([\d.]+)  ", limits.__doc__ or "", re.MULTILINE)
    usual = Limits()
    printed = {name: tuple(map(float, values)) for name, *values in rows}
    known = [usual.timeouts(pace) for pace in (0.0, 10.0, 600.0)]
    expected = {
        name: tuple(getattr(timeouts, name) for timeouts in known)
        for name in (field.name for field in fields(Timeouts))
    }
    assert printed == {"heartbeat": (usual.heartbeat,) * 3, **expected}
