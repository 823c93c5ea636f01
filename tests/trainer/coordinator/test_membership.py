"""Membership's rules, one by one: how a world starts, shrinks and grows."""

from __future__ import annotations

import pytest

from tests.trainer.coordinator.membership_run import A, B, C, D, Run, drained, given_up, world
from trainer.coordinator.member import Member, Phase, State, choose
from trainer.protocol.signals import (
    Abort,
    Crashed,
    Drain,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Ready,
    Started,
    Stopped,
)
from trainer.protocol.world import MemberId
from trainer.rundir.events import Cause

# --- the start --------------------------------------------------------------------


def test_the_first_world_forms_when_all_expected_workers_are_ready() -> None:
    run = Run(expected=3)
    assert run.ready(A, B) == []
    assert run.step(Joined(C, 1)) == []
    assert run.step(Ready(C)) == [Form(world(1, A, B, C))]
    assert run.phase is Phase.FORMING
    run.started()
    assert run.emitted("resumed") == [
        {"generation": 1, "world_size": 3, "cause": "start", "step": 0, "lost_steps": 0}
    ]


def test_the_first_worlds_ranks_follow_the_replicas_names() -> None:
    run = Run(expected=2)
    run.ready(B)
    run.now += 0.1
    assert run.ready(A) == [Form(world(1, A, B))]


def test_the_start_waits_for_absent_replicas_only_so_long() -> None:
    run = Run(expected=3, min_workers=2, start_wait=60.0)
    run.ready(A)
    run.wait(100.0)
    run.ready(B)  # from now on it could start
    assert run.wait(59.0) == []
    assert run.wait(1.0) == [Form(world(1, A, B))]


def test_nothing_starts_with_fewer_than_min_workers() -> None:
    run = Run(expected=3, min_workers=3)
    run.ready(A, B)
    assert run.wait(1000.0) == []
    assert run.phase is Phase.WAITING


def test_a_world_runs_when_the_last_member_has_started() -> None:
    run = Run(expected=2)
    run.ready(A, B)
    run.step(Started(A, 1, step=0))
    assert run.phase is Phase.FORMING
    run.step(Started(B, 1, step=0))
    assert run.phase is Phase.RUNNING


@pytest.mark.parametrize("idle, told", [(0.25, 0.25), (None, 1.5)])
def test_a_pause_is_what_its_first_member_measures_or_else_the_slowest(
    idle: float | None, told: float
) -> None:
    """The first member, rank 0's, also measures what follows: from there to the first step."""
    run = Run(expected=3)
    run.ready(A, B, C)
    run.step(Started(C, 1, step=0, idle=0.5), Started(A, 1, step=0, idle=idle))
    run.step(Started(B, 1, step=0, idle=1.5))
    assert run.emitted("resumed")[-1]["seconds"] == told


# --- drain ------------------------------------------------------------------------


def test_a_drain_pauses_the_world_and_goes_on_without_the_member() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    run.step(Progress(A, 1, step=7))
    assert run.step(Drain(B, "preemption", 30.0)) == [Pause(running)]
    assert run.stopped(A, B, step=8) == []
    assert run.stopped(C, step=8) == [drained(B), Form(world(2, A, C))]
    run.started(step=8)
    assert run.emitted("drain") == [
        {
            "member": "workerpool1-1",
            "incarnation": "first",
            "reason": "preemption",
            "deadline_seconds": 30.0,
            "generation": 1,
            "step": 7,
        }
    ]
    assert run.emitted("generation_formed")[-1]["cause"] == "drain"
    assert run.emitted("resumed")[-1]["lost_steps"] == 0
    assert run.emitted("loss") == []


def test_two_drains_are_served_by_one_reformation() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    orders = run.step(Drain(B, "preemption", 30.0), Drain(A, "preemption", 30.0))
    assert orders == [Pause(running)]
    orders = run.stopped(A, B, C, step=1)
    assert orders == [drained(A), drained(B), Form(world(2, C))]


def test_the_same_notice_twice_is_one_drain() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Drain(A, "SIGTERM", 30.0), Drain(A, "metadata", 30.0))
    assert len(run.emitted("drain")) == 1


def test_a_member_outside_the_world_is_released_at_once_when_drained() -> None:
    run = Run(expected=2)
    run.ready(A)
    assert run.step(Drain(A, "preemption", 30.0)) == [drained(A)]
    assert run.machine.members == {}


def test_a_drain_while_the_world_forms_waits_until_it_runs() -> None:
    run = Run(expected=2, admission_interval=0.0)
    run.start(A, B)
    run.ready(C)
    run.stopped(A, B, step=1)
    assert run.step(Drain(A, "preemption", 30.0)) == []
    run.step(Started(A, 2, step=1), Started(B, 2, step=1))
    assert run.step(Started(C, 2, step=1)) == [Pause(world(2, A, B, C))]
    assert run.emitted("resumed")[-1]["cause"] == "grow"
    run.stopped(A, B, C, step=2)
    assert run.emitted("generation_formed")[-1]["cause"] == "drain"


def test_a_drained_member_that_disappears_after_it_stopped_is_no_loss() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Drain(B, "preemption", 30.0))
    run.stopped(B, step=1)
    assert run.step(Left(B, "its connection broke")) == []
    assert run.stopped(A, step=1) == [Form(world(2, A))]
    assert run.emitted("loss") == []


def test_a_drain_whose_deadline_passes_is_a_loss() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.step(Drain(B, "preemption", 5.0))
    assert run.wait(5.0) == []
    assert run.wait(0.5) == [
        given_up(B, "did not leave before its deadline"),
        Abort(running),
    ]
    assert run.emitted("loss")[0]["reason"] == "did not leave before its deadline"
    assert run.stopped(A) == [Form(world(2, A))]
    assert run.emitted("generation_formed")[-1]["cause"] == "loss"


# --- loss -------------------------------------------------------------------------


def test_a_lost_member_breaks_the_world_off_and_the_survivors_go_on() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    run.step(Progress(A, 1, step=5))
    assert run.step(Left(B, "its connection broke")) == [Abort(running)]
    assert run.stopped(C, step=5) == []
    assert run.stopped(A, step=5) == [Form(world(2, A, C))]
    run.started(step=5)
    assert run.emitted("loss")[0] == {
        "member": "workerpool1-1",
        "reason": "its connection broke",
        "incarnation": "first",
        "gone": True,
        "generation": 1,
        "step": 5,
    }
    assert run.emitted("resumed")[-1]["lost_steps"] == 0


def test_what_dies_with_a_vm_is_one_loss() -> None:
    run = Run(expected=4)
    run.start(A, B, slots=2)
    run.step(Crashed(B, "killed"), Crashed(B, "killed"), Left(B, "its connection broke"))
    assert [one["reason"] for one in run.emitted("loss")] == ["killed"]


def test_a_worker_that_dies_again_once_it_was_ready_is_another_loss() -> None:
    run = Run(expected=2)
    run.start(A, B)
    for _ in range(2):
        run.step(Crashed(B, "exit code 139", spare=True), Ready(B))
        run.stopped(A)
        run.started()
    assert len(run.emitted("loss")) == 2


def test_several_losses_break_one_world_off_once() -> None:
    run = Run(expected=4)
    run.start(A, B, C, D)
    run.step(Left(B, "gone"), Left(C, "gone"))
    assert [order for order in run.orders if isinstance(order, Abort)] == [Abort(run.world)]
    assert run.stopped(A, D) == [Form(world(2, A, D))]


def test_a_failed_collective_is_a_loss_before_anybody_reports_one() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    stopped = Stopped(A, 1, step=3, failed="connection reset by peer")
    assert run.step(stopped) == [Abort(running)]
    assert run.step(Left(B, "gone")) == [Form(world(2, A))]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "causes, lost, told",
    [
        (("rollback", "rollback"), False, "rollback"),
        (
            ("repeat", "break"),
            False,
            "repeat",
        ),  # one is out of memory
        (("break", "break"), False, "break"),
        (("rollback", "break"), True, "loss"),
    ],
)
def test_a_world_that_its_ranks_leave_by_themselves_has_lost_nobody(
    causes: tuple[Cause, Cause], lost: bool, told: str, first: int
) -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    left = [
        Stopped(one, 1, step=3, failed="why", cause=cause)
        for one, cause in zip((A, B), causes, strict=True)
    ]
    run.step(left[first])
    if lost:
        run.step(Left(C, "gone"))
    else:
        run.stopped(C, step=3)
    run.step(left[1 - first])
    assert run.emitted("generation_formed")[-1]["cause"] == told
    assert len(run.emitted("loss")) == lost


def test_a_collective_that_fails_during_a_pause_breaks_the_pause_off() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    run.step(Drain(B, "preemption", 30.0))
    stopped = Stopped(A, 1, step=3, failed="connection reset by peer")
    assert run.step(stopped) == [Abort(running)]


def test_a_member_lost_after_it_stopped_does_not_disturb_those_who_still_finish_their_step() -> (
    None
):
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Drain(C, "preemption", 30.0))
    run.stopped(A, step=1)
    assert run.step(Left(A, "gone")) == []
    assert run.stopped(B, C, step=1) == [drained(C), Form(world(2, B))]
    assert run.emitted("generation_formed")[-1]["cause"] == "loss"


def test_a_crash_with_a_spare_keeps_the_member_and_its_rank() -> None:
    run = Run(expected=3, hold_off=1.0)
    running = run.start(A, B, C)
    assert run.step(Crashed(A, "exit code 139", spare=True)) == [Abort(running)]
    assert run.stopped(B, C, step=4) == []  # the spare takes over in a moment
    assert run.step(Ready(A)) == [Form(world(2, A, B, C))]


def test_a_spare_that_does_not_come_is_not_waited_for() -> None:
    run = Run(expected=2, hold_off=1.0)
    run.start(A, B)
    run.step(Crashed(A, "exit code 139", spare=True))
    run.stopped(B, step=4)
    assert run.wait(1.0) == [Form(world(2, B))]


def test_a_crash_without_a_spare_leaves_the_member_out_until_it_is_ready_again() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Crashed(A, "exit code 139"))
    assert run.stopped(B, step=4) == [Form(world(2, B))]
    run.started(step=4)
    run.wait(5.0)
    assert run.step(Ready(A)) == [Pause(world(2, B))]
    assert run.stopped(B, step=9) == [Form(world(3, B, A))]


def test_a_crash_in_a_member_with_several_slots_waits_for_its_other_workers() -> None:
    run = Run(expected=4, max_workers=8)
    run.start(A, B, slots=2)
    run.step(Crashed(A, "exit code 139"))
    assert run.stopped(B, step=4) == []
    assert run.stopped(A, step=4) == [Form(world(2, B, slots=2))]


def test_whoever_is_ready_again_has_left_the_generation_with_all_its_workers() -> None:
    run = Run(expected=4)
    run.start(A, B, slots=2)
    run.step(Crashed(A, "exit code 139"), Crashed(A, "exit code 139"))
    assert run.stopped(B, step=4) == []
    assert run.step(Ready(A)) == [Form(world(2, A, B, slots=2))]


def test_a_crash_while_the_member_is_outside_the_world_disturbs_nobody() -> None:
    run = Run(expected=1, max_workers=1)
    run.start(A)
    run.ready(B)
    assert run.step(Crashed(B, "exit code 1")) == []
    assert run.phase is Phase.RUNNING


def test_a_loss_while_the_world_forms_leads_to_the_next_generation() -> None:
    run = Run(expected=3)
    run.ready(A, B, C)
    run.step(Started(A, 1, step=0))
    assert run.step(Left(C, "its connection broke")) == [Abort(world(1, A, B, C))]
    # One was in already; the other's hvd.init() failed.
    assert run.stopped(A) == []
    stopped = Stopped(B, 1, step=0, clean=False, failed="hvd.init() failed")
    assert run.step(stopped) == [Form(world(2, A, B))]


def test_every_generation_starts_and_breaks_anew() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    run.stopped(A, B, step=1)
    run.step(Started(A, 2, step=1))
    assert run.phase is Phase.FORMING
    assert run.step(Left(B, "gone")) == [Abort(world(2, A, B))]


def test_a_world_that_forms_is_given_time_before_silence_counts() -> None:
    run = Run(expected=2, suspicion=2.0, idle_suspicion=10.0)
    run.ready(A)
    run.wait(9.0, alive=())
    run.ready(B)
    assert run.phase is Phase.FORMING
    assert run.wait(2.0, alive=(B,)) == []
    assert run.wait(0.5, alive=(B,)) == [
        given_up(A, "silent for 2.5 s"),
        Abort(world(1, A, B)),
    ]


def test_whoever_was_left_behind_cannot_disturb_the_next_generation() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Crashed(A, "exit code 139"))
    run.stopped(B, step=4)
    assert run.phase is Phase.FORMING
    assert run.step(Stopped(A, 1, step=4, failed="crashed"), Started(A, 1, step=0)) == []
    assert run.phase is Phase.FORMING


# --- growth -----------------------------------------------------------------------


def test_newcomers_are_appended_after_the_survivors() -> None:
    run = Run(expected=2, admission_interval=5.0)
    running = run.start(A, B)
    run.wait(5.0)
    assert run.ready(C) == [Pause(running)]
    assert run.stopped(A, B, step=50) == [Form(world(2, A, B, C))]
    run.started(step=50)
    assert run.emitted("generation_formed")[-1]["cause"] == "grow"


def test_newcomers_are_in_the_order_in_which_they_became_ready() -> None:
    run = Run(expected=1)
    run.start(A)
    run.ready(D)
    run.now += 0.1
    run.ready(C)
    run.wait(5.0)
    assert run.stopped(A) == [Form(world(2, A, D, C))]


def test_newcomers_that_arrive_close_together_are_admitted_together() -> None:
    run = Run(expected=1, hold_off=1.0, admission_interval=0.0)
    running = run.start(A)
    run.step(Joined(B, 1), Joined(C, 1))
    assert run.step(Ready(B)) == []
    assert run.wait(0.5) == []
    assert run.step(Ready(C)) == [Pause(running)]
    assert run.stopped(A) == [Form(world(2, A, B, C))]


def test_newcomers_wait_no_longer_for_others_than_the_hold_off() -> None:
    run = Run(expected=1, hold_off=1.0, admission_interval=0.0)
    running = run.start(A)
    run.step(Joined(B, 1), Joined(C, 1), Joined(D, 1), Ready(B))
    run.wait(0.5)
    run.step(Ready(C))
    assert run.wait(0.5) == [Pause(running)]
    assert run.stopped(A) == [Form(world(2, A, B, C))]


def test_admissions_are_rate_limited() -> None:
    run = Run(expected=1, admission_interval=5.0)
    running = run.start(A)
    assert run.ready(B) == []
    assert run.wait(4.5) == []
    assert run.ready(C) == []
    assert run.wait(0.5) == [Pause(running)]
    assert run.stopped(A) == [Form(world(2, A, B, C))]


def test_a_newcomer_that_is_ready_during_another_stop_is_admitted_with_it() -> None:
    run = Run(expected=2, admission_interval=1000.0)
    run.start(A, B)
    run.step(Left(B, "gone"))
    run.ready(C)
    assert run.stopped(A) == [Form(world(2, A, C))]


def test_whoever_exceeds_max_workers_stands_by_and_takes_the_next_free_place() -> None:
    run = Run(expected=2, max_workers=2)
    run.start(A, B)
    run.ready(C)
    assert run.wait(100.0) == []
    run.step(Left(A, "gone"))
    assert run.stopped(B) == [Form(world(2, B, C))]


def candidate(id_: MemberId, slots: int, rank: float = float("inf")) -> Member:
    return Member(id_, slots, State.READY, heard=0.0, rank=rank)


def test_members_are_taken_whole_and_the_earlier_first() -> None:
    members = [candidate(C, 2), candidate(A, 4, rank=1), candidate(B, 1, rank=0), candidate(D, 1)]
    assert [one.id for one in choose(members, least=1, most=7)] == [B, A, C]
    assert [one.id for one in choose(members, least=1, most=6)] == [B, A, D]


def test_a_member_is_passed_over_if_min_workers_cannot_be_reached_with_it() -> None:
    members = [candidate(A, 1, rank=0), candidate(B, 8)]
    assert [one.id for one in choose(members, least=4, most=8)] == [B]
    assert [one.id for one in choose(members, least=9, most=9)] == [A, B]
    assert [one.id for one in choose(members, least=2, most=4)] == [A]  # too few, whatever is done
