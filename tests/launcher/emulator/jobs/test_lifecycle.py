"""The states of a job and its replicas, as the pure state machine that decides them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from launcher.emulator.jobs.lifecycle import (
    INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED,
    Command,
    Freeze,
    JobError,
    Kill,
    Lifecycle,
    Notify,
    Refused,
    ReplicaState,
    Rules,
    Start,
    Stop,
    StopAll,
    Survivors,
    Wanted,
)
from launcher.emulator.resources.customjobs import JobState

NAMES = ["workerpool0-0", "workerpool1-0", "workerpool1-1"]
SOON = timedelta(seconds=5)


def running(**rules: object) -> Lifecycle:
    life = Lifecycle(NAMES, Rules(**rules))  # type: ignore[arg-type]
    start_all(life, 1)
    return life


def start_all(life: Lifecycle, incarnation: int) -> None:
    """Gives the job all its VMs, which come up at once."""
    assert life.wanted == Wanted(tuple(NAMES), together=True)
    assert life.granted(NAMES) == [Start(name, incarnation) for name in NAMES]
    for name in NAMES:
        assert life.state is JobState.PENDING
        life.started(name, incarnation)
    assert life.state is JobState.RUNNING


def ended(life: Lifecycle) -> tuple[JobState, JobError | None]:
    life.stopped()
    assert life.state.terminal
    return life.state, life.error


def test_the_job_is_queued_until_there_are_vms_and_running_when_all_are_up() -> None:
    life = Lifecycle(NAMES)
    assert life.state is JobState.QUEUED
    assert life.granted(NAMES) == [Start(name, 1) for name in NAMES]
    for name in NAMES[:2]:
        life.started(name, 1)
        assert life.state is JobState.PENDING
    life.started(NAMES[2], 1)
    assert life.state is JobState.RUNNING


def test_a_primary_that_exits_before_the_others_are_up_counts_when_they_are() -> None:
    life = Lifecycle(NAMES)
    life.granted(NAMES)
    life.started(NAMES[0], 1)
    assert life.exited(NAMES[0], 1, 0) == []
    life.started(NAMES[1], 1)
    assert life.started(NAMES[2], 1) == [StopAll()]
    assert life.state is JobState.RUNNING
    assert ended(life) == (JobState.SUCCEEDED, None)


@pytest.mark.parametrize("code", [-9, -15, 143])
def test_what_is_not_known_to_be_permanent_restarts_the_replica_five_times_then_the_job(
    code: int,
) -> None:
    life = running()
    for incarnation in range(1, 6):
        assert life.exited(NAMES[1], incarnation, code) == [Start(NAMES[1], incarnation + 1)]
        assert life.state is JobState.RUNNING
        life.started(NAMES[1], incarnation + 1)
    assert life.exited(NAMES[1], 6, code) == [Stop(NAMES[0]), Stop(NAMES[2])]
    assert life.state is JobState.PENDING
    assert all(replica.restarts == 0 for replica in life.replicas.values())


@pytest.mark.parametrize("code", [6, 134, -6, 11, 139, -11])
def test_what_may_be_transient_restarts_the_whole_job_three_times(code: int) -> None:
    life = running()
    for incarnation in range(1, 4):
        assert life.exited(NAMES[1], incarnation, code) == [Stop(NAMES[0]), Stop(NAMES[2])]
        assert life.exited(NAMES[0], incarnation, -15) == []  # shut down, not failed
        assert life.exited(NAMES[2], incarnation, 0) == []
        start_all(life, incarnation + 1)
    assert life.exited(NAMES[1], 4, code) == [StopAll()]
    state, error = ended(life)
    assert state is JobState.FAILED
    assert error and "The job had been restarted 3 times" in error.message


def test_the_primarys_success_does_not_outlive_the_try_it_was_part_of() -> None:
    life = Lifecycle(NAMES)
    life.granted(NAMES)
    life.started(NAMES[0], 1)
    life.exited(NAMES[0], 1, 139)  # decided on once the job is RUNNING
    life.started(NAMES[1], 1)
    assert life.started(NAMES[2], 1) == [Stop(NAMES[1]), Stop(NAMES[2])]
    start_all(life, 2)


@pytest.mark.parametrize("code", [1, 2, 126, 137, 255])
def test_any_other_exit_code_fails_the_job(code: int) -> None:
    life = running()
    assert life.exited(NAMES[1], 1, code) == [StopAll()]
    state, error = ended(life)
    assert state is JobState.FAILED
    assert error and error.code == INVALID_ARGUMENT
    assert NAMES[1] in error.message and f"exited with status {code}" in error.message


def test_disable_retries_lets_replicas_restart_but_not_the_job() -> None:
    life = running(disable_retries=True, restart_job_on_worker_restart=True)
    assert life.exited(NAMES[1], 1, -9) == [Start(NAMES[1], 2)]
    assert life.exited(NAMES[2], 1, 139) == [StopAll()]
    assert ended(life)[0] is JobState.FAILED


def test_restart_job_on_worker_restart() -> None:
    life = running(restart_job_on_worker_restart=True)
    assert life.exited(NAMES[1], 1, -9) == [Stop(NAMES[0]), Stop(NAMES[2])]
    start_all(life, 2)
    assert life.replicas[NAMES[1]].restarts == 1
    assert life.taken(NAMES[2], None) == [Stop(NAMES[0]), Stop(NAMES[1]), Kill(NAMES[2])]
    start_all(life, 3)


def test_a_preempted_replica_is_killed_after_its_notice_and_may_come_back() -> None:
    life = running()
    assert life.preempt(NAMES[1], SOON) == [Notify(NAMES[1], 1, SOON)]
    assert life.notice_over(NAMES[1], 1) == [Kill(NAMES[1])]
    assert life.exited(NAMES[1], 1, -9) == []
    assert life.replicas[NAMES[1]].state is ReplicaState.PREEMPTED
    assert life.wanted == Wanted()  # not before it is given back
    assert life.restore(NAMES[1]) == []
    assert life.wanted == Wanted((NAMES[1],))
    assert life.granted([NAMES[1]]) == [Start(NAMES[1], 2)]
    assert life.replicas[NAMES[1]].restarts == 0


def test_a_replica_given_back_during_its_notice_gets_a_new_vm_once() -> None:
    life = running()
    life.preempt(NAMES[1], SOON)
    assert life.restore(NAMES[1]) == [Kill(NAMES[1])]
    assert life.granted([NAMES[1]]) == [Start(NAMES[1], 2)]
    life.started(NAMES[1], 2)
    assert life.exited(NAMES[1], 1, -9) == []
    assert life.notice_over(NAMES[1], 1) == []
    assert life.replicas[NAMES[1]].state is ReplicaState.RUNNING


@pytest.mark.parametrize(
    "code, commands, state",
    [
        (-15, [], ReplicaState.PREEMPTED),
        (143, [], ReplicaState.PREEMPTED),
        (1, [StopAll()], ReplicaState.EXITED),
        (0, [StopAll()], ReplicaState.EXITED),  # as on Vertex: the primary has said "done"
    ],
)
def test_a_primary_that_ends_during_its_notice(
    code: int, commands: list[Command], state: ReplicaState
) -> None:
    life = running()
    life.preempt(NAMES[0], SOON)
    assert life.exited(NAMES[0], 1, code) == commands
    assert life.replicas[NAMES[0]].state is state


def test_a_vanished_replica_stays_away_until_it_is_given_back() -> None:
    life = running()
    assert life.preempt(NAMES[2], None) == [Freeze(NAMES[2])]
    with pytest.raises(Refused):
        life.preempt(NAMES[2], SOON)
    life.restore(NAMES[2])
    assert life.granted([NAMES[2]]) == [Start(NAMES[2], 2)]
    assert life.exited(NAMES[2], 1, -9) == []
    with pytest.raises(Refused, match="nothing to restore"):
        life.restore(NAMES[2])


def test_what_the_market_takes_is_wanted_back_at_once() -> None:
    life = running()
    assert life.taken(NAMES[1], None) == [Freeze(NAMES[1])]
    assert life.wanted == Wanted((NAMES[1],))
    life.granted([NAMES[1]])
    assert life.taken(NAMES[1], SOON) == [Kill(NAMES[1])]  # nobody in it can hear yet
    assert life.wanted == Wanted((NAMES[1],))
    assert life.taken(NAMES[1], None) == []


def test_survivors_of_a_preemption_may_be_restarted_with_it() -> None:
    life = running(survivors=Survivors.RESTART)
    life.taken(NAMES[2], SOON)
    assert life.state is JobState.RUNNING
    assert life.notice_over(NAMES[2], 1) == [Kill(NAMES[2]), Stop(NAMES[0]), Stop(NAMES[1])]
    assert life.state is JobState.PENDING
    start_all(life, 2)


@pytest.mark.parametrize("notice", [None, SOON])
def test_a_preemption_may_be_a_stockout_of_the_whole_job(notice: timedelta | None) -> None:
    life = running(survivors=Survivors.FAIL)
    commands = life.taken(NAMES[2], notice)
    if notice:
        assert life.state is JobState.RUNNING and not life.ending, "until its time is over"
        commands = life.notice_over(NAMES[2], 1)
    assert commands[-1] == StopAll()
    life.stopped()
    assert life.state is JobState.FAILED
    assert life.error and life.error.code == RESOURCE_EXHAUSTED


def test_stockout_after_six_restarts_in_a_row_that_find_no_vm() -> None:
    life = Lifecycle(NAMES, Rules(region="us-central1"))
    for _ in range(5):
        assert life.refused() == []
    start_all(life, 1)
    assert life.refused() == []  # it has VMs
    life.taken(NAMES[0], None)
    assert not life.stranded  # it goes on with those that are left
    for name in NAMES[1:]:
        life.taken(name, None)
    for _ in range(5):
        assert life.refused() == []
    assert life.refused() == [StopAll()]
    assert ended(life) == (
        JobState.FAILED,
        JobError(
            RESOURCE_EXHAUSTED,
            "Resources are insufficient in region: us-central1. "
            "Try a different region or use a different accelerator.",
        ),
    )


def test_a_job_that_waits_in_the_queue_may_expire_but_no_other() -> None:
    life = Lifecycle(NAMES)
    assert life.expire("too late") == [StopAll()]
    assert ended(life)[0] is JobState.EXPIRED
    assert running().expire("too late") == []


def test_cancel_goes_through_cancelling_whatever_the_replicas_do() -> None:
    life = running()
    assert life.cancel() == [StopAll()]
    assert life.state is JobState.CANCELLING
    assert life.exited(NAMES[0], 1, 0) == []
    assert life.cancel() == []
    assert ended(life)[0] is JobState.CANCELLED
    with pytest.raises(Refused):
        life.cancel()
