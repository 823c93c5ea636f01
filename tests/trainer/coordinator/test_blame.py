"""Who is at fault, as a table; and what follows for machines, the run, and those who go on."""

from __future__ import annotations

import pytest

from tests.trainer.coordinator.membership_run import A, B, C, Run, world
from trainer.coordinator.blame import Failure, Kind, Strikes, Whose, then, whose
from trainer.protocol import signals
from trainer.protocol.signals import (
    Abort,
    Crashed,
    Finish,
    Form,
    Left,
    Progress,
    Ready,
    Release,
    Started,
    TaskFailed,
)
from trainer.protocol.world import MemberId

# --- the table --------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, trained, held, alike, times, expected",
    [
        ("program", True, False, False, 0, "program"),
        ("program", True, True, False, 0, "program"),
        ("program", False, False, False, 0, "program"),
        ("program", False, False, True, 0, "program"),
        ("program", False, True, False, 0, "newcomer"),
        ("machine", True, True, False, 0, "machine"),
        ("machine", True, False, False, 0, "machine"),
        ("machine", True, False, True, 0, "program"),
        ("unsure", True, True, False, 1, "machine"),
        ("unsure", True, True, False, 2, "machine"),
        ("unsure", True, True, False, 3, "program"),
        ("unsure", True, False, True, 1, "program"),
        ("raised", True, True, False, 2, "script"),
        ("raised", True, True, False, 3, "program"),
        ("raised", True, True, True, 1, "program"),
        ("raised", True, False, False, 1, "program"),
        ("raised", False, True, False, 0, "newcomer"),
        ("raised", False, False, False, 0, "program"),
        ("crash", True, True, False, 1, "nobody"),
        ("crash", False, True, False, 0, "newcomer"),
        ("crash", False, True, False, 1, "nobody"),  # others have died there
        ("crash", False, False, False, 1, "nobody"),
        ("crash", False, True, False, 3, "program"),
        ("crash", True, False, True, 2, "nobody"),
        ("crash", True, False, False, 3, "program"),
        ("", True, True, False, 9, "nobody"),
        ("killed", True, True, False, 9, "nobody"),
        ("killed", True, False, True, 10, "program"),
        ("again", True, True, True, 9, "nobody"),
        ("again", True, True, False, 10, "program"),
    ],
)
def test_who_is_at_fault(
    kind: Kind, trained: bool, held: bool, alike: bool, times: int, expected: Whose
) -> None:
    failure = Failure(kind, "workerpool1-0", 0, 5, "x", trained)
    assert whose(failure, alike=alike, held=held, times=times) == expected


def test_what_follows_for_a_machine() -> None:
    assert [then(faults) for faults in (1, 2, 3, 4)] == ["process", "replica", "out", "out"]


def crash(step: int, samples: tuple[int, ...] = (), count: int = 0) -> Failure:
    return Failure(
        "crash", "workerpool1-0", 0, step, "SIGSEGV", samples=samples, count=count or len(samples)
    )


def test_strikes_are_forgotten_when_the_furthest_step_is_passed() -> None:
    strikes = Strikes()
    strikes.add([crash(40)])
    for step in (10, 40):  # back from a checkpoint, and as far as it was
        strikes.reached(step)
        assert strikes.times == 1
    strikes.add([crash(12)])
    strikes.reached(13)
    assert strikes.times == 2, "the furthest step is another one"
    strikes.reached(41)
    assert not strikes.any


def test_without_samples_it_may_have_been_what_follows_the_step_before() -> None:
    """An evaluation, or the copy for a checkpoint."""
    strikes = Strikes()
    strikes.add([crash(40)])
    assert strikes.told() == (
        "step 41, or what follows step 40, has ended a worker's process 1 times, and no other had "
        "been lost: SIGSEGV, in rank 0 (workerpool1-0)"
    )


def test_what_is_told_of_crashes_has_step_rank_and_samples() -> None:
    strikes = Strikes()
    for _ in range(2):
        strikes.add([crash(40, tuple(range(30)), 64)])
    strikes.add([crash(40)])
    ids = ", ".join(map(str, range(20)))
    assert strikes.told() == (
        "step 41 has ended a worker's process 3 times, and no other had been lost: SIGSEGV, in "
        f"rank 0 (workerpool1-0); it had the samples {ids} and 44 more"
    )


# --- one machine's fault ----------------------------------------------------------


ECC = "Traceback\nAcceleratorError: CUDA error: uncorrectable ECC error encountered"


def fails(run: Run, member: MemberId, kind: str, step: int = 7, reason: str = ECC) -> None:
    """A worker in the world raises, and its process ends; the others leave the world."""
    generation = run.world.generation
    run.step(TaskFailed(member, 1, step, reason, kind, True, generation), Crashed(member, "exit 1"))
    run.stopped(*(one for one in run.world.members if one != member), step=step)


def again(run: Run, member: MemberId, step: int = 7) -> None:
    """The world without a member runs; the member is ready again, and admitted."""
    run.started(step)
    run.wait(10.0)
    run.step(Ready(member))
    run.stopped(*run.world.members, step=step)
    run.started(step)


def test_a_machines_fault_costs_a_process_then_the_replica_then_it_is_out() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Progress(A, 1, step=7))
    fails(run, B, "machine")
    assert run.orders[-1] == Form(world(2, A, C)), "the others go on"
    again(run, B)
    fails(run, B, "machine")
    reason = "AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    assert run.orders[-2:] == [Release(B, reason, rejoin=True, broken=True), run.orders[-1]]
    assert B not in run.machine.members
    run.started(7)
    new = MemberId(B.replica, "second")
    run.wait(10.0)
    run.ready(new)
    run.stopped(A, C, step=7)
    run.started(7)
    fails(run, new, "machine")
    assert Release(new, reason, rejoin=False, broken=True) in run.orders
    assert [(one["faults"], one["then"], one["whose"]) for one in run.emitted("fault")] == [
        (1, "process", "machine"),
        (2, "replica", "machine"),
        (3, "out", "machine"),
    ]
    assert not run.emitted("finished")


def test_what_all_machines_fail_in_alike_is_the_programs_fault() -> None:
    run = Run(expected=2)
    run.start(A, B)
    for rank, member in enumerate((A, B)):
        run.step(TaskFailed(member, rank, 7, ECC, "machine", True, 1))
        run.step(Crashed(member, "exit 1"))
    (finish,) = [one for one in run.orders if isinstance(one, Finish)]
    assert finish.reason.startswith(
        "the program failed in rank 0 (workerpool1-0) after step 7 [SW5001]"
    )


def test_two_broken_machines_are_not_the_program_when_another_was_lost_before() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    for rank, member in enumerate((A, B)):
        run.step(TaskFailed(member, rank, 7, ECC, "machine", True, 1))
        run.step(Crashed(member, "exit 1"))
    assert run.emitted("finished") == []


def test_an_error_of_the_gpu_that_follows_the_step_is_the_programs_fault() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Progress(A, 1, step=7))
    text = "Traceback\nAcceleratorError: an illegal memory access was encountered"
    for member in (A, B):
        fails(run, member, "unsure", reason=text)
        assert run.emitted("finished") == []
        again(run, member)
    fails(run, C, "unsure", reason=text)
    assert run.emitted("finished")[0]["state"] == "failed"


RAISED = "Traceback\nConnectionResetError: [Errno 104] Connection reset by peer"


def test_where_a_horovod_script_raises_the_others_go_on_and_its_machine_bears_it() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Progress(A, 1, step=7))
    fails(run, B, "raised", reason=RAISED)
    assert run.world == world(2, A, C), "the others go on"
    again(run, B)
    run.step(Progress(A, run.world.generation, step=9))
    fails(run, B, "raised", step=9, reason=RAISED)
    assert [(one["then"], one["whose"]) for one in run.emitted("fault")] == [
        ("process", "script"),
        ("replica", "script"),
    ]
    assert not run.emitted("finished")


def test_what_a_horovod_script_raises_three_times_at_a_step_ends_the_run() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Progress(A, 1, step=7))
    for member in (A, B):
        fails(run, member, "raised", reason=RAISED)
        assert not run.emitted("finished")
        again(run, member)
    fails(run, C, "raised", reason=RAISED)
    assert run.emitted("finished")[0]["state"] == "failed"


def test_what_a_horovod_script_raises_where_nobody_else_has_the_state_ends_the_run() -> None:
    run = Run(expected=1)
    run.start(A, step=7)
    fails(run, A, "raised", reason=RAISED)
    (finished,) = run.emitted("finished")
    assert finished["reason"].endswith(RAISED)


def test_when_no_machine_is_left_the_run_says_why_it_ends() -> None:
    run = Run(expected=1)
    run.start(A, step=7)
    fails(run, A, "machine")
    run.step(Ready(A))
    run.started(7)
    fails(run, A, "machine")
    assert run.emitted("finished") == [], "its replica comes back"
    again = MemberId(A.replica, "second")
    run.ready(again)
    run.started(7)
    fails(run, again, "machine")
    assert run.emitted("finished")[-1]["reason"] == (
        "no machine is left that can train; the last: AcceleratorError: CUDA error: "
        "uncorrectable ECC error encountered [SW5006]"
    )


# --- newcomers --------------------------------------------------------------------

LOAD = "Traceback\nFileNotFoundError: /data/train.bin"


def test_a_newcomers_load_error_is_its_own_and_the_others_train_on() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=5), signals.Joined(C, 1))
    for faults in (1, 2):
        orders = run.step(TaskFailed(C, 0, 0, LOAD, "program", False))
        assert not any(isinstance(one, Abort | Finish) for one in orders)
        run.step(Crashed(C, "exit 1"))
        assert run.emitted("fault")[-1]["faults"] == faults
    assert run.emitted("fault")[0] == {
        "member": "workerpool1-2",
        "incarnation": "first",
        "rank": 0,
        "step": 0,
        "reason": "FileNotFoundError: /data/train.bin",
        "whose": "newcomer",
        "faults": 1,
        "then": "process",
    }
    assert run.phase.value == "running"


def test_a_newcomer_that_fails_in_its_first_world_is_left_out_of_the_next() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=5))
    run.wait(10.0)
    run.ready(C)
    run.stopped(A, B, step=6)
    run.step(Started(A, 2, 6), Started(B, 2, 6))
    failed = TaskFailed(C, 2, 0, "Traceback\nValueError: no", "program", False, 2)
    assert run.step(failed) == [Abort(world(2, A, B, C))]
    run.step(Crashed(C, "exit 1"))
    assert run.stopped(A, B, step=6) == [Form(world(3, A, B))]
    assert run.emitted("fault")[-1]["whose"] == "newcomer"


def test_a_spare_that_cannot_load_costs_the_member_that_trains_nothing() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=5))
    for _ in range(4):
        assert run.step(TaskFailed(B, 0, 0, LOAD, "program", False)) == []
    assert run.emitted("fault")[-1]["then"] == "process"
    assert run.phase.value == "running"


def test_who_cannot_load_before_the_first_step_is_judged_by_whether_others_can() -> None:
    alike, alone = Run(expected=2), Run(expected=2)
    for run in (alike, alone):
        run.step(signals.Joined(A, 1), signals.Joined(B, 1))
        assert run.step(TaskFailed(A, 0, 0, LOAD, "program", False)) == []
    (finish,) = alike.step(TaskFailed(B, 0, 0, LOAD, "program", False))
    assert isinstance(finish, Finish)
    alone.step(Ready(B))
    assert alone.emitted("fault")[-1]["member"] == "workerpool1-0"
    assert alone.emitted("finished") == []


def test_the_first_world_waits_for_nobody_who_is_out() -> None:
    run = Run(expected=3)
    run.step(*(signals.Joined(one, 1) for one in (A, B, C)), Ready(B), Ready(C))
    for _ in range(2):
        run.step(TaskFailed(A, -1, 0, LOAD, "program", False))
        run.step(signals.Joined(A, 1))  # another process, and then another machine
    assert run.emitted("generation_formed") == []
    run.step(TaskFailed(A, -1, 0, LOAD, "program", False))
    assert [one["then"] for one in run.emitted("fault")] == ["process", "replica", "out"]
    assert run.emitted("generation_formed")[-1]["world_size"] == 2
    assert "rank" not in run.emitted("fault")[-1], "it never had one"


def test_an_error_of_a_worker_that_has_trained_ends_the_run_at_once() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=5))
    (finish,) = run.step(TaskFailed(B, 1, 5, "Traceback\nIndexError: x", "program", True, 1))
    assert isinstance(finish, Finish)


# --- crashes ----------------------------------------------------------------------


def dies(run: Run, member: MemberId, step: int, samples: tuple[int, ...] = ()) -> None:
    """A worker's process dies in native code, and the other member leaves the world."""
    failure = signals.Failure("crash", 0, step, "SIGSEGV", True, samples, len(samples))
    run.step(Crashed(member, "SIGSEGV", spare=True, failure=failure), Ready(member))
    run.stopped(*(one for one in run.world.members if one != member), step=step)


def test_a_crash_at_one_step_ends_the_run_the_third_time_with_the_samples() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(B, 1, step=40))
    for generation in (2, 3):
        dies(run, A, 40, () if generation == 2 else (17, 23))
        careful = Form(world(generation, A, B), careful=True)
        assert run.orders[-1] == careful, "workers say now what they take"
        run.started(40)
    dies(run, A, 40, (17, 23))
    assert run.emitted("finished")[-1]["reason"] == (
        "step 41 has ended a worker's process 3 times, and no other had been lost: SIGSEGV, in "
        "rank 0 (workerpool1-0); it had the samples 17, 23 [SW5005]"
    )


def test_crashes_alone_from_a_checkpoint_are_counted_until_the_step_is_passed() -> None:
    run = Run(expected=1)
    run.start(A)
    for generation in range(1, 4):
        run.step(Progress(A, generation, step=40))
        failure = signals.Failure("crash", 0, 40, "SIGABRT")
        run.step(Crashed(A, "SIGABRT", spare=True, failure=failure), Ready(A))
        if generation < 3:
            run.started(30)  # each of these worlds completes ten steps again
    assert run.emitted("finished")[-1]["state"] == "failed"


def test_a_crash_of_all_workers_at_once_counts_once_and_ends_the_run_the_third_time() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    for generation in range(1, 4):
        assert run.emitted("finished") == []
        run.step(Progress(A, generation, step=40))
        for rank, member in enumerate((A, B, C)):
            failure = signals.Failure("crash", rank, 40, "SIGSEGV", True, (rank, 77), 2)
            run.step(Crashed(member, "SIGSEGV", spare=True, failure=failure), Ready(member))
        if generation < 3:
            run.started(30)
    assert "3 times" in run.emitted("finished")[-1]["reason"]


def test_a_crash_that_moves_before_the_furthest_step_is_counted() -> None:
    run = Run(expected=1)
    run.start(A)
    for generation, step in enumerate((40, 37, 39), 1):
        run.step(Progress(A, generation, step=step))
        failure = signals.Failure("crash", 0, step, "SIGABRT", True, (step,), 1)
        run.step(Crashed(A, "SIGABRT", spare=True, failure=failure), Ready(A))
        if generation < 3:
            run.started(30)
    assert run.emitted("finished")[-1]["reason"].startswith("step 40 has ended a worker's process")


def test_a_crash_in_a_world_that_lost_a_peer_does_not_count() -> None:
    run = Run(expected=2)
    run.start(A, B)
    for generation in range(1, 9):
        run.step(Progress(A, generation, step=40))
        failure = signals.Failure("crash", 1, 40, "SIGABRT")
        run.step(Crashed(B, "killed by SIGKILL", spare=True), Ready(B))
        run.step(Crashed(A, "SIGABRT", spare=True, failure=failure), Ready(A))
        run.started(40)
    assert run.emitted("finished") == []
    assert all(not one.careful for one in run.orders if isinstance(one, Form))
