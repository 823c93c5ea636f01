"""Membership's rules, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.member import Member, State, choose
from trainer.membership import Membership, Phase
from trainer.policy import Policy
from trainer.signals import (
    Abort,
    Command,
    Crashed,
    Done,
    Drain,
    Event,
    Finish,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Ready,
    Record,
    Release,
    Replace,
    Save,
    Started,
    Stopped,
    TaskFailed,
    Tick,
)
from trainer.world import MemberId, World, arrange

A, B, C, D, E = (MemberId(f"workerpool1-{i}", "first") for i in range(5))


class Run:
    """A machine with a clock; ``orders`` and ``records`` collect what it says."""

    def __init__(self, expected: int = 0, last_generation: int = 0, **limits: Any) -> None:
        policy = Policy(**{"min_workers": 1, "max_workers": 8, **limits})
        self.now = 100.0
        self.machine = Membership(policy, expected, self.now, last_generation)
        self.orders: list[Command] = []
        self.records: list[Record] = []

    def tell(self, *events: Event) -> list[Command]:
        """What the machine orders when these events happen."""
        orders: list[Command] = []
        for event in events:
            for command in self.machine.step(event, self.now):
                if isinstance(command, Record):
                    self.records.append(command)
                else:
                    orders.append(command)
        self.orders += orders
        return orders

    def wait(self, seconds: float, alive: str | tuple[MemberId, ...] = "all") -> list[Command]:
        """Time passes in heartbeats of those ``alive``."""
        orders: list[Command] = []
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            orders += self.tell(*(Progress(one) for one in alive_in(self, alive)), Tick())
        return orders

    def ready(self, *members: MemberId, slots: int = 1) -> list[Command]:
        """Members join, and are ready."""
        return self.tell(*(event for one in members for event in (Joined(one, slots), Ready(one))))

    def start(self, *members: MemberId, slots: int = 1, step: int = 0) -> World:
        """Members join, form a world and train in it."""
        self.ready(*members, slots=slots)
        return self.started(step)

    def started(self, step: int = 0) -> World:
        """The world that is forming runs."""
        assert self.phase is Phase.FORMING
        self.tell(*(Started(one, self.world.generation, step) for one in self.world.members))
        assert self.phase is Phase.RUNNING
        return self.world

    def stopped(self, *members: MemberId, step: int = 0) -> list[Command]:
        """Members leave the world together, after ``step``."""
        return self.tell(*(Stopped(one, self.world.generation, step) for one in members))

    def told(self, event: str) -> list[dict[str, Any]]:
        """The fields of all records of one kind."""
        return [record.fields for record in self.records if record.event == event]

    @property
    def phase(self) -> Phase:
        return self.machine.phase

    @property
    def world(self) -> World:
        assert self.machine.world is not None
        return self.machine.world


def alive_in(run: Run, alive: str | tuple[MemberId, ...]) -> tuple[MemberId, ...]:
    return tuple(run.machine.members) if isinstance(alive, str) else alive


def world(generation: int, *members: MemberId, slots: int = 1) -> World:
    return arrange(generation, [(member, slots) for member in members])


# --- the start --------------------------------------------------------------------


def test_the_first_world_forms_when_all_expected_workers_are_ready() -> None:
    run = Run(expected=3)
    assert run.ready(A, B) == []
    assert run.tell(Joined(C, 1)) == []
    assert run.tell(Ready(C)) == [Form(world(1, A, B, C))]
    assert run.phase is Phase.FORMING
    run.started()
    assert run.told("resumed") == [
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
    run.tell(Started(A, 1, step=0))
    assert run.phase is Phase.FORMING
    run.tell(Started(B, 1, step=0))
    assert run.phase is Phase.RUNNING


def test_a_pause_lasts_as_long_as_its_slowest_member_was_idle() -> None:
    run = Run(expected=2)
    run.ready(A, B)
    run.tell(Started(A, 1, step=0, idle=0.25), Started(B, 1, step=0, idle=1.5))
    assert run.told("resumed")[-1]["seconds"] == 1.5


# --- drain ------------------------------------------------------------------------


def test_a_drain_pauses_the_world_and_goes_on_without_the_member() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    run.tell(Progress(A, 1, step=7))
    assert run.tell(Drain(B, "preemption", 30.0)) == [Pause(running)]
    assert run.stopped(A, B, step=8) == []
    assert run.stopped(C, step=8) == [Release(B, "drained"), Form(world(2, A, C))]
    run.started(step=8)
    assert run.told("drain") == [
        {
            "member": "workerpool1-1",
            "reason": "preemption",
            "deadline_seconds": 30.0,
            "generation": 1,
            "step": 7,
        }
    ]
    assert run.told("generation_formed")[-1]["cause"] == "drain"
    assert run.told("resumed")[-1]["lost_steps"] == 0
    assert run.told("loss") == []


def test_two_drains_are_served_by_one_reformation() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    orders = run.tell(Drain(B, "preemption", 30.0), Drain(A, "preemption", 30.0))
    assert orders == [Pause(running)]
    orders = run.stopped(A, B, C, step=1)
    assert orders == [Release(A, "drained"), Release(B, "drained"), Form(world(2, C))]


def test_the_same_notice_twice_is_one_drain() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.tell(Drain(A, "SIGTERM", 30.0), Drain(A, "metadata", 30.0))
    assert len(run.told("drain")) == 1


def test_a_member_outside_the_world_is_released_at_once_when_drained() -> None:
    run = Run(expected=2)
    run.ready(A)
    assert run.tell(Drain(A, "preemption", 30.0)) == [Release(A, "drained")]
    assert run.machine.members == {}


def test_a_drain_while_the_world_forms_waits_until_it_runs() -> None:
    run = Run(expected=2, admission_interval=0.0)
    run.start(A, B)
    run.ready(C)
    run.stopped(A, B, step=1)
    assert run.tell(Drain(A, "preemption", 30.0)) == []
    run.tell(Started(A, 2, step=1), Started(B, 2, step=1))
    assert run.tell(Started(C, 2, step=1)) == [Pause(world(2, A, B, C))]
    assert run.told("resumed")[-1]["cause"] == "grow"
    run.stopped(A, B, C, step=2)
    assert run.told("generation_formed")[-1]["cause"] == "drain"


def test_a_drained_member_that_disappears_after_it_stopped_is_no_loss() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.tell(Drain(B, "preemption", 30.0))
    run.stopped(B, step=1)
    assert run.tell(Left(B, "its connection broke")) == []
    assert run.stopped(A, step=1) == [Form(world(2, A))]
    assert run.told("loss") == []


def test_a_drain_whose_deadline_passes_is_a_loss() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.tell(Drain(B, "preemption", 5.0))
    assert run.wait(5.0) == []
    assert run.wait(0.5) == [Release(B, "did not leave before its deadline"), Abort(running)]
    assert run.told("loss")[0]["reason"] == "did not leave before its deadline"
    assert run.stopped(A) == [Form(world(2, A))]
    assert run.told("generation_formed")[-1]["cause"] == "loss"


# --- loss -------------------------------------------------------------------------


def test_a_lost_member_breaks_the_world_off_and_the_survivors_go_on() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    run.tell(Progress(A, 1, step=5))
    assert run.tell(Left(B, "its connection broke")) == [Abort(running)]
    assert run.stopped(C, step=5) == []
    assert run.stopped(A, step=5) == [Form(world(2, A, C))]
    run.started(step=5)
    assert run.told("loss")[0] == {
        "member": "workerpool1-1",
        "reason": "its connection broke",
        "generation": 1,
        "step": 5,
    }
    assert run.told("resumed")[-1]["lost_steps"] == 0


def test_several_losses_break_one_world_off_once() -> None:
    run = Run(expected=4)
    run.start(A, B, C, D)
    run.tell(Left(B, "gone"), Left(C, "gone"))
    assert [order for order in run.orders if isinstance(order, Abort)] == [Abort(run.world)]
    assert run.stopped(A, D) == [Form(world(2, A, D))]


def test_a_failed_collective_is_a_loss_before_anybody_reports_one() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    stopped = Stopped(A, 1, step=3, failed="connection reset by peer")
    assert run.tell(stopped) == [Abort(running)]
    assert run.tell(Left(B, "gone")) == [Form(world(2, A))]


def test_a_collective_that_fails_during_a_pause_breaks_the_pause_off() -> None:
    run = Run(expected=3)
    running = run.start(A, B, C)
    run.tell(Drain(B, "preemption", 30.0))
    stopped = Stopped(A, 1, step=3, failed="connection reset by peer")
    assert run.tell(stopped) == [Abort(running)]


def test_a_member_lost_after_it_stopped_does_not_disturb_those_who_still_finish_their_step() -> (
    None
):
    run = Run(expected=3)
    run.start(A, B, C)
    run.tell(Drain(C, "preemption", 30.0))
    run.stopped(A, step=1)
    assert run.tell(Left(A, "gone")) == []
    assert run.stopped(B, C, step=1) == [Release(C, "drained"), Form(world(2, B))]
    assert run.told("generation_formed")[-1]["cause"] == "loss"


def test_a_crash_with_a_spare_keeps_the_member_and_its_rank() -> None:
    run = Run(expected=3, hold_off=1.0)
    running = run.start(A, B, C)
    assert run.tell(Crashed(A, "exit code 139", spare=True)) == [Abort(running)]
    assert run.stopped(B, C, step=4) == []  # the spare takes over in a moment
    assert run.tell(Ready(A)) == [Form(world(2, A, B, C))]


def test_a_spare_that_does_not_come_is_not_waited_for() -> None:
    run = Run(expected=2, hold_off=1.0)
    run.start(A, B)
    run.tell(Crashed(A, "exit code 139", spare=True))
    run.stopped(B, step=4)
    assert run.wait(1.0) == [Form(world(2, B))]


def test_a_crash_without_a_spare_leaves_the_member_out_until_it_is_ready_again() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.tell(Crashed(A, "exit code 139"))
    assert run.stopped(B, step=4) == [Form(world(2, B))]
    run.started(step=4)
    run.wait(5.0)
    assert run.tell(Ready(A)) == [Pause(world(2, B))]
    assert run.stopped(B, step=9) == [Form(world(3, B, A))]


def test_a_crash_in_a_member_with_several_slots_waits_for_its_other_workers() -> None:
    run = Run(expected=4, max_workers=8)
    run.start(A, B, slots=2)
    run.tell(Crashed(A, "exit code 139"))
    assert run.stopped(B, step=4) == []
    assert run.stopped(A, step=4) == [Form(world(2, B, slots=2))]


def test_whoever_is_ready_again_has_left_the_generation_with_all_its_workers() -> None:
    run = Run(expected=4)
    run.start(A, B, slots=2)
    run.tell(Crashed(A, "exit code 139"), Crashed(A, "exit code 139"))
    assert run.stopped(B, step=4) == []
    assert run.tell(Ready(A)) == [Form(world(2, A, B, slots=2))]


def test_a_crash_while_the_member_is_outside_the_world_disturbs_nobody() -> None:
    run = Run(expected=1, max_workers=1)
    run.start(A)
    run.ready(B)
    assert run.tell(Crashed(B, "exit code 1")) == []
    assert run.phase is Phase.RUNNING


def test_a_loss_while_the_world_forms_leads_to_the_next_generation() -> None:
    run = Run(expected=3)
    run.ready(A, B, C)
    run.tell(Started(A, 1, step=0))
    assert run.tell(Left(C, "its connection broke")) == [Abort(world(1, A, B, C))]
    # One was in already; the other's hvd.init() failed.
    assert run.stopped(A) == []
    stopped = Stopped(B, 1, step=0, clean=False, failed="hvd.init() failed")
    assert run.tell(stopped) == [Form(world(2, A, B))]


def test_every_generation_starts_and_breaks_anew() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.tell(Left(C, "gone"))
    run.stopped(A, B, step=1)
    run.tell(Started(A, 2, step=1))
    assert run.phase is Phase.FORMING
    assert run.tell(Left(B, "gone")) == [Abort(world(2, A, B))]


def test_a_world_that_forms_is_given_time_before_silence_counts() -> None:
    run = Run(expected=2, suspicion=2.0, idle_suspicion=10.0)
    run.ready(A)
    run.wait(9.0, alive=())
    run.ready(B)
    assert run.phase is Phase.FORMING
    assert run.wait(2.0, alive=(B,)) == []
    assert run.wait(0.5, alive=(B,)) == [Release(A, "silent for 2.5 s"), Abort(world(1, A, B))]


def test_a_world_that_takes_too_long_to_form_is_broken_off() -> None:
    run = Run(expected=2, forming_limit=60.0)
    run.ready(A, B)
    run.tell(Started(A, 1, step=0))
    assert run.wait(60.0) == []
    assert run.wait(0.5) == [Abort(world(1, A, B))]


def test_whoever_was_left_behind_cannot_disturb_the_next_generation() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.tell(Crashed(A, "exit code 139"))
    run.stopped(B, step=4)
    assert run.phase is Phase.FORMING
    assert run.tell(Stopped(A, 1, step=4, failed="crashed"), Started(A, 1, step=0)) == []
    assert run.phase is Phase.FORMING


# --- too few ----------------------------------------------------------------------


def test_below_min_workers_the_state_is_saved_and_the_survivors_wait() -> None:
    run = Run(expected=3, min_workers=2, hold_off=1.0)
    run.start(A, B, C)
    run.tell(Left(A, "gone"), Left(B, "gone"))
    assert run.stopped(C, step=40) == [Save(C)]
    assert run.phase is Phase.WAITING
    assert run.told("waiting") == [{"slots": 1, "min_workers": 2}]
    assert run.wait(300.0) == []
    assert run.ready(D) == [Form(world(2, C, D))]
    run.started(step=40)
    assert run.told("resumed")[-1]["lost_steps"] == 0


def test_the_most_advanced_clean_state_is_saved_even_by_one_who_leaves() -> None:
    run = Run(expected=3, min_workers=3)
    run.start(A, B, C)
    run.tell(Drain(B, "preemption", 30.0))
    run.tell(Stopped(A, 1, step=9, clean=False), Stopped(B, 1, step=9, clean=True))
    orders = run.tell(Stopped(C, 1, step=9, clean=False))
    assert orders == [Save(B), Release(B, "drained")]


def test_one_who_stays_rather_saves_than_one_who_leaves() -> None:
    run = Run(expected=2, min_workers=2)
    run.start(A, B)
    run.tell(Drain(A, "preemption", 30.0))
    assert run.stopped(A, B, step=9) == [Save(B), Release(A, "drained")]


# --- growth -----------------------------------------------------------------------


def test_newcomers_are_appended_after_the_survivors() -> None:
    run = Run(expected=2, admission_interval=5.0)
    running = run.start(A, B)
    run.wait(5.0)
    assert run.ready(C) == [Pause(running)]
    assert run.stopped(A, B, step=50) == [Form(world(2, A, B, C))]
    run.started(step=50)
    assert run.told("generation_formed")[-1]["cause"] == "grow"


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
    run.tell(Joined(B, 1), Joined(C, 1))
    assert run.tell(Ready(B)) == []
    assert run.wait(0.5) == []
    assert run.tell(Ready(C)) == [Pause(running)]
    assert run.stopped(A) == [Form(world(2, A, B, C))]


def test_newcomers_wait_no_longer_for_others_than_the_hold_off() -> None:
    run = Run(expected=1, hold_off=1.0, admission_interval=0.0)
    running = run.start(A)
    run.tell(Joined(B, 1), Joined(C, 1), Joined(D, 1), Ready(B))
    run.wait(0.5)
    run.tell(Ready(C))
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
    run.tell(Left(B, "gone"))
    run.ready(C)
    assert run.stopped(A) == [Form(world(2, A, C))]


def test_whoever_exceeds_max_workers_stands_by_and_takes_the_next_free_place() -> None:
    run = Run(expected=2, max_workers=2)
    run.start(A, B)
    run.ready(C)
    assert run.wait(100.0) == []
    run.tell(Left(A, "gone"))
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


# --- a new leader -----------------------------------------------------------------


def test_a_new_leader_adopts_the_world_that_it_finds() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7)
    assert run.tell(Joined(A, 1, found)) == []
    assert run.phase is Phase.RUNNING
    assert run.tell(Joined(B, 1, found), Progress(A, 7, step=70), Progress(B, 7, step=71)) == []
    assert run.wait(60.0) == []
    assert run.tell(Drain(B, "preemption", 30.0)) == [Pause(found)]
    assert run.stopped(A, B, step=80) == [Release(B, "drained"), Form(world(8, A))]
    assert run.told("generation_formed") == [
        {
            "generation": 8,
            "world_size": 1,
            "cause": "drain",
            "members": ["workerpool1-0"],
            "step": 80,
        }
    ]


def test_a_member_that_does_not_come_over_is_lost() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7, adoption_wait=5.0, suspicion=2.0)
    run.tell(Joined(A, 1, found))
    assert run.wait(7.0, alive=(A,)) == []
    assert run.wait(0.5, alive=(A,))[1:] == [Abort(found)]
    assert run.stopped(A, step=70) == [Form(world(8, A))]
    assert run.told("generation_formed")[-1]["cause"] == "leader"


def test_a_new_leader_does_not_form_a_world_before_the_old_one_can_show_itself() -> None:
    run = Run(last_generation=7, adoption_wait=5.0)
    assert run.tell(Joined(C, 1)) == []
    assert run.told("waiting") == []  # it does not know yet
    assert run.tell(Ready(C)) == []
    assert run.wait(4.5) == []
    assert run.wait(0.5) == [Form(world(8, C))]


def test_whoever_comes_over_while_the_world_is_broken_off_hears_of_it() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7)
    run.tell(Joined(A, 1, found))
    assert run.tell(Stopped(A, 7, step=70, failed="connection reset")) == [Abort(found)]
    assert run.tell(Joined(B, 1, found)) == [Abort(found)]
    assert run.stopped(B, step=70) == [Form(world(8, A, B))]


def test_a_member_that_never_heard_of_the_world_that_was_found_breaks_it_off() -> None:
    found = world(7, A, B)
    run = Run(last_generation=6)
    assert run.ready(B) == []
    assert run.tell(Joined(A, 1, found)) == [Abort(found), Abort(found)]
    assert run.stopped(A, step=70) == [Form(world(8, A, B))]


def test_a_member_of_an_older_world_breaks_the_newer_off_if_it_should_be_in_it() -> None:
    found, older = world(7, A, B), world(6, A, B, C)
    run = Run(last_generation=7)
    run.tell(Joined(A, 1, found))
    assert run.tell(Joined(B, 1, older))[0] == Abort(found)
    run.tell(Ready(B))
    assert run.stopped(A, step=70) == [Form(world(8, A, B))]


def test_a_world_newer_than_the_adopted_one_is_broken_off_and_its_number_not_used_again() -> None:
    older, newer = world(6, A, B), world(7, A, C)
    run = Run(last_generation=6)
    run.tell(Joined(A, 1, older))
    assert run.tell(Joined(C, 1, newer)) == [Abort(newer)]
    run.tell(Ready(C), Left(B, "gone"))
    assert run.stopped(A, step=60) == [Form(world(8, A, C))]


def test_a_member_that_lost_its_connection_for_a_moment_is_a_newcomer() -> None:
    run = Run(expected=2, admission_interval=0.0)
    first = run.start(A, B)
    run.tell(Left(A, "its connection broke"))
    # It heard nothing of the end of its world.
    assert run.tell(Joined(A, 1, first)) == [Abort(first)]
    run.stopped(B, step=3)
    second = run.started(step=3)
    assert second == world(2, B)
    assert run.tell(Stopped(A, 1, step=3), Ready(A)) == [Pause(second)]
    assert run.stopped(B, step=4) == [Form(world(3, B, A))]


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
