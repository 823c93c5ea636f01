"""The states of a job and its replicas, as the pure state machine that decides them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.customjobs import TERMINAL, JobState
from launcher.emulator.lifecycle import (
    Command,
    Freeze,
    Kill,
    Lifecycle,
    Notify,
    Refused,
    ReplicaState,
    Start,
    StopAll,
)

NAMES = ["workerpool0-0", "workerpool1-0", "workerpool1-1"]
SOON = timedelta(seconds=5)


def running() -> Lifecycle:
    life = Lifecycle(NAMES)
    for start in life.begin():
        assert isinstance(start, Start)
        life.started(start.replica, start.incarnation)
    assert life.state is JobState.RUNNING
    return life


def test_the_job_is_running_when_all_replicas_are_up() -> None:
    life = Lifecycle(NAMES)
    assert life.state is JobState.QUEUED
    assert life.begin() == [Start(name, 1) for name in NAMES]
    for name in NAMES[:2]:
        life.started(name, 1)
        assert life.state is JobState.PENDING
    life.started(NAMES[2], 1)
    assert life.state is JobState.RUNNING


def test_a_primary_that_exits_before_the_others_are_up_counts_when_they_are() -> None:
    life = Lifecycle(NAMES)
    life.begin()
    life.started(NAMES[0], 1)
    assert life.exited(NAMES[0], 1, 0) == []
    life.started(NAMES[1], 1)
    assert life.started(NAMES[2], 1) == [StopAll()]
    assert life.state is JobState.RUNNING
    life.stopped()
    assert life.state is JobState.SUCCEEDED


@pytest.mark.parametrize("code", [134, 139, -9, -11])
def test_what_may_be_transient_restarts_a_replica_five_times_and_then_fails_the_job(
    code: int,
) -> None:
    life = running()
    for incarnation in range(1, 6):
        assert life.exited(NAMES[1], incarnation, code) == [Start(NAMES[1], incarnation + 1)]
        life.started(NAMES[1], incarnation + 1)
    assert life.exited(NAMES[1], 6, code) == [StopAll()]
    life.stopped()
    assert life.state is JobState.FAILED


@pytest.mark.parametrize("code", [1, 2, 126, 137, 255])
def test_any_other_exit_code_fails_the_job(code: int) -> None:
    life = running()
    assert life.exited(NAMES[1], 1, code) == [StopAll()]
    life.stopped()
    assert life.state is JobState.FAILED
    assert life.error and f"{NAMES[1]} exited with status {code}" in life.error.message


def test_a_preempted_replica_is_killed_after_its_notice_and_may_come_back() -> None:
    life = running()
    assert life.preempt(NAMES[1], SOON) == [Notify(NAMES[1], 1, SOON)]
    assert life.notice_over(NAMES[1], 1) == [Kill(NAMES[1])]
    assert life.exited(NAMES[1], 1, -9) == []
    assert life.replicas[NAMES[1]].state is ReplicaState.PREEMPTED
    assert life.restore(NAMES[1]) == [Start(NAMES[1], 2)]
    assert life.replicas[NAMES[1]].restarts == 0


def test_a_replica_given_back_during_its_notice_is_not_killed_when_that_is_over() -> None:
    life = running()
    life.preempt(NAMES[1], SOON)
    assert life.restore(NAMES[1]) == [Start(NAMES[1], 2)]
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
    assert life.vanish(NAMES[2]) == [Freeze(NAMES[2])]
    with pytest.raises(Refused):
        life.preempt(NAMES[2], SOON)
    assert life.restore(NAMES[2]) == [Start(NAMES[2], 2)]
    assert life.exited(NAMES[2], 1, -9) == []


def test_cancel_goes_through_cancelling_whatever_the_replicas_do() -> None:
    life = running()
    assert life.cancel() == [StopAll()]
    assert life.state is JobState.CANCELLING
    assert life.exited(NAMES[0], 1, 0) == []
    assert life.cancel() == []
    life.stopped()
    assert life.state is JobState.CANCELLED
    with pytest.raises(Refused):
        life.cancel()


HAPPENINGS = [
    *("started", "started", "exited", "preempt", "vanish", "restore", "notice_over"),
    *("cancel", "fail", "stopped"),
]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(HAPPENINGS),
        st.sampled_from(NAMES),
        st.sampled_from([0, 0, 1, 134, 139, -9, -15, 143]),
        st.integers(0, 1),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_a_job_ends_once_and_nothing_is_started_after_that(
    events: list[tuple[str, str, int, int]],
) -> None:
    life = Lifecycle(NAMES)
    commands = life.begin()
    stops = 0
    for kind, name, code, age in events:
        if kind == "stopped" and not stops:
            continue  # only an answer to StopAll
        before = life.state
        was_ending = life.ending
        commands = happen(life, kind, name, code, life.replicas[name].incarnation - age)
        stops += commands.count(StopAll())
        assert stops <= 1
        if was_ending:
            assert not any(isinstance(command, Start | StopAll) for command in commands)
        if before in TERMINAL:
            assert life.state is before
        assert life.ending == (stops == 1)
        assert all(replica.restarts <= 5 for replica in life.replicas.values())


def happen(life: Lifecycle, kind: str, name: str, code: int, incarnation: int) -> list[Command]:
    arguments: dict[str, tuple[Any, ...]] = {
        "started": (name, incarnation),
        "exited": (name, incarnation, code),
        "preempt": (name, SOON),
        "notice_over": (name, incarnation),
        "fail": (13, "a reason"),
        "cancel": (),
        "stopped": (),
    }
    try:
        result: list[Command] = getattr(life, kind)(*arguments.get(kind, (name,)))
    except Refused:
        return []
    return result
