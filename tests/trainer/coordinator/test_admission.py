"""Who is let into a world that is made of several jobs: who reaches all of them, and is reached."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.coordinator.membership_run import Run, world
from trainer.coordinator.admission import AGAIN, ANSWER, Admission
from trainer.coordinator.member import State
from trainer.protocol.signals import (
    Crashed,
    Emit,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Prove,
    Proved,
    Ready,
    Stopped,
)
from trainer.protocol.world import MemberId

A, A2 = MemberId("1/workerpool0-0", "a"), MemberId("1/workerpool1-0", "a")
B, B2 = MemberId("2/workerpool0-0", "b"), MemberId("2/workerpool1-0", "b")
C = MemberId("3/workerpool0-0", "c")
WALL = "connection timed out"


def asked(orders: list[Any]) -> set[tuple[MemberId, MemberId]]:
    return {(it.member, it.peer) for it in orders if isinstance(it, Prove)}


def shows(member: MemberId, peer: MemberId) -> Proved:
    return Proved(member, peer, "", "10.0.0.1", "10.1.0.1", 0.002, 5e8)


def fails(member: MemberId, peer: MemberId) -> Proved:
    return Proved(member, peer, WALL, "10.0.0.1", "10.1.0.1")


def both(one: MemberId, other: MemberId) -> list[Proved]:
    return [shows(one, other), shows(other, one)]


# --- the first world ------------------------------------------------------------------


def test_members_of_one_job_have_nothing_to_show() -> None:
    run = Run(expected=2)
    assert run.ready(A, A2) == [Form(world(1, A, A2))]


def test_members_of_a_run_of_one_job_have_nothing_to_show_either() -> None:
    one, other = MemberId("workerpool0-0", "a"), MemberId("workerpool1-0", "b")
    assert Run(expected=2).ready(one, other) == [Form(world(1, one, other))]


def test_who_comes_from_another_job_is_asked_at_once_and_both_ways() -> None:
    run = Run(expected=2)
    assert run.step(Joined(A, 1)) == []
    assert asked(run.step(Joined(B, 1))) == {(A, B), (B, A)}


def test_a_world_of_two_jobs_forms_when_each_has_shown_that_it_reaches_the_other() -> None:
    run = Run(expected=2)
    run.ready(A, B)
    assert run.step(shows(A, B)) == [], "one way is half of it"
    assert run.step(shows(B, A)) == [Form(world(1, A, B))]


def test_what_was_shown_while_workers_were_warming_up_counts() -> None:
    run = Run(expected=2)
    run.step(Joined(A, 1), Joined(B, 1), *both(A, B))
    assert run.step(Ready(B), Ready(A)) == [Form(world(1, A, B))]


def test_every_member_shows_it_with_one_of_each_other_job() -> None:
    run = Run(expected=3, start_wait=600.0)
    run.ready(A, A2, B)
    peer = next(peer for member, peer in asked(run.orders) if member == B)
    other = A2 if peer == A else A
    assert run.step(*both(peer, B)) == [Form(world(1, A, A2, B))], "B has, with one of job 1"
    assert other in run.machine.members


def test_how_a_job_reaches_another_is_on_record_once() -> None:
    run = Run(expected=4)
    run.ready(A, B, A2, B2)
    for one, other in ((A, B), (A, B2), (A2, B), (A2, B2)):
        run.step(*both(one, other))
    assert run.emitted("connected") == [
        {"member": B.replica, "peer": A.replica, "latency": 0.002, "bandwidth": 5e8}
    ]


# --- who is not reached ---------------------------------------------------------------


@pytest.mark.parametrize("one_way", [fails(A, B), fails(B, A)])
def test_who_fails_either_way_stays_out_and_the_others_begin_without(one_way: Proved) -> None:
    run = Run(expected=2, start_wait=5.0)
    run.ready(A, B)
    run.step(one_way)
    assert run.wait(6.0)[-1] == Form(world(1, A))
    assert run.machine.members[B].state is State.JOINING
    [told] = run.emitted("unreachable")
    assert told["member"] == B.replica and told["peer"] == A.replica
    own, its = ("10.0.0.1", "10.1.0.1") if one_way.member == B else ("10.1.0.1", "10.0.0.1")
    assert (told["address"], told["peer_address"]) == (own, its)
    assert WALL in told["reason"] and "does not reach" in told["reason"]


def test_a_world_that_trains_is_never_paused_for_who_cannot_be_reached() -> None:
    run = Run(expected=2, admission_interval=0.0, hold_off=0.0)
    run.start(A, A2)
    run.ready(B)
    run.step(fails(B, A), fails(B, A2))
    assert not any(isinstance(it, Pause) for it in run.wait(30.0))
    assert run.machine.world == world(1, A, A2)


def test_who_failed_is_asked_again_and_let_in_when_the_way_is_free() -> None:
    run = Run(expected=1, admission_interval=0.0, hold_off=0.0)
    running = run.start(A)
    run.ready(B)
    run.step(fails(B, A))
    assert asked(run.wait(AGAIN - 2.0)) == set(), "not before a while has passed"
    assert asked(run.wait(4.0)) == {(A, B), (B, A)}
    assert run.step(*both(A, B)) == [Pause(running)]
    assert len(run.emitted("unreachable")) == 1


def test_a_failure_that_repeats_is_on_record_once() -> None:
    run = Run(expected=1)
    run.start(A)
    run.ready(B)
    for _ in range(3):
        run.step(fails(B, A))
        run.wait(AGAIN + 2.0)
    assert len(run.emitted("unreachable")) == 1


@pytest.mark.parametrize("silent", [A, B])
def test_who_does_not_answer_has_failed(silent: MemberId) -> None:
    run = Run(expected=1)
    run.start(A)
    run.ready(B)
    run.step(shows(B if silent == A else A, silent))
    run.wait(ANSWER + 2.0)
    [told] = run.emitted("unreachable")
    assert told["member"] == B.replica
    assert told["reason"].startswith(silent.replica) and "no answer" in told["reason"]


def test_a_third_job_has_to_reach_both() -> None:
    run = Run(expected=2, admission_interval=0.0, hold_off=0.0)
    run.ready(A, B)
    run.step(*both(A, B))
    running = run.started()
    run.ready(C)
    assert run.step(*both(C, A), fails(C, B)) == []
    run.wait(AGAIN + 2.0)
    assert run.step(*both(C, B)) == [Pause(running)]


def test_when_those_are_gone_whom_it_did_not_reach_it_goes_on_alone() -> None:
    run = Run(expected=1)
    run.start(A)
    run.ready(B)
    run.step(fails(B, A))
    run.step(Left(A, "its job has failed"))
    run.wait(20.0, alive=(B,))  # the only one that held the state has its time to come back
    assert run.world == world(2, B)


# --- who has been let in --------------------------------------------------------------


def test_who_was_let_in_stays_in_whatever_its_workers_do() -> None:
    run = Run(expected=2)
    run.ready(A, B)
    run.step(*both(A, B))
    run.started()
    run.step(Crashed(B, "killed"))
    run.step(Stopped(A, 1, 0))
    assert run.started().members == (A,)
    before = len(run.orders)
    run.step(Ready(B))
    assert asked(run.orders[before:]) == set()
    assert run.machine.members[B].state is State.READY


def test_a_member_that_comes_back_has_to_show_it_anew() -> None:
    again = B._replace(incarnation="again")
    run = Run(expected=2)
    run.ready(A, B)
    run.step(*both(A, B))
    run.started()
    run.step(Left(B, "gone"))
    assert {one for pair in asked(run.step(Joined(again, 1))) for one in pair} == {A, again}


def test_those_who_train_have_shown_it_to_a_leader_that_takes_over() -> None:
    run = Run(last_generation=3)
    running = world(3, A, B)
    run.step(Joined(A, 1, running), Joined(B, 1, running))
    run.step(Progress(A, 3, 7), Progress(B, 3, 7))
    assert run.machine.world == running and asked(run.orders) == set()
    assert {pair[0] for pair in asked(run.step(Joined(C, 1)))} >= {C}


def test_who_has_not_come_to_a_leader_that_takes_over_is_not_asked() -> None:
    run = Run(last_generation=3)
    run.step(Joined(A, 1, world(3, A, B)), Progress(A, 3, 7))
    assert asked(run.step(Joined(C, 1))) == {(A, C), (C, A)}
    run.step(Joined(B, 1, world(3, A, B)))
    assert asked(run.wait(1.5)) == {(B, C), (C, B)}


# --- any order ------------------------------------------------------------------------

MEMBERS = [MemberId(f"{job}/workerpool{pool}-0", "x") for job in (1, 2, 3) for pool in (0, 1)]
walls = st.sets(st.sampled_from([*combinations(("1", "2", "3"), 2)]))


@given(walls, st.permutations(MEMBERS), st.data())
def test_whoever_is_admitted_reaches_a_member_of_every_other_job_that_is(
    apart: set[tuple[str, str]], order: list[MemberId], data: st.DataObject
) -> None:
    """Whatever order they come and answer in; and all come in who reach the first."""
    admission, now = Admission(), 0.0
    admitted: list[MemberId] = []
    open_orders: list[Prove] = []

    def heard(commands: list[Any]) -> None:
        open_orders.extend(it for it in commands if isinstance(it, Prove))

    def wall(one: MemberId, other: MemberId) -> bool:
        return tuple(sorted((one.job, other.job))) in apart

    def answer() -> None:
        order = open_orders.pop(data.draw(st.integers(0, len(open_orders) - 1)))
        there = fails if wall(order.member, order.peer) else shows
        heard(admission.take(there(order.member, order.peer), now))

    def admit() -> None:
        for member in order:
            if member in here and member not in admitted and admission.admits(member):
                admitted.append(member)

    here: set[MemberId] = set()
    for member in order:
        here.add(member)
        heard(admission.join(member, now))
        for _ in range(data.draw(st.integers(0, len(open_orders)))):
            answer()
        admit()
    for _ in range(4):
        now += AGAIN + 1.0
        heard(admission.look(now))
        while open_orders:
            answer()
        admit()
    assert admitted
    jobs = {member.job for member in admitted}
    assert not any(tuple(sorted(pair)) in apart for pair in combinations(jobs, 2))
    for member in order:
        apart_from = {tuple(sorted((member.job, job))) for job in jobs} & apart
        assert (member in admitted) == (not apart_from)


def test_a_proof_of_somebody_unknown_is_passed_over() -> None:
    admission = Admission()
    admission.join(A, 0.0)
    told = admission.take(shows(A, B), 0.0) + admission.take(fails(B, A), 0.0)
    assert not any(isinstance(it, Emit) for it in told)
