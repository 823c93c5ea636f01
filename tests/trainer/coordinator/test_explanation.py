"""Why nothing happens has an answer in every phase: what is waited for, and until when."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.coordinator.membership_run import A, B, C, Run
from trainer.coordinator.explanation import Telling, Wait
from trainer.coordinator.liveness import AWAY
from trainer.coordinator.member import Phase
from trainer.protocol.signals import (
    Crashed,
    Done,
    Drain,
    Joined,
    Left,
    Progress,
    Proved,
    Ready,
    Started,
    Stopped,
)
from trainer.protocol.world import MemberId


def said(run: Run) -> tuple[str, float, float, str]:
    """What is waited for, for how long already, how long it may take in all, and what then."""
    wait = run.machine.explain(run.now)
    assert wait is not None
    return wait.what, run.now - wait.since, wait.until - wait.since, wait.then


def both(one: MemberId, other: MemberId) -> list[Proved]:
    """They connect to each other, both ways."""
    return [
        Proved(a, b, "", "10.0.0.1", "10.1.0.1", 0.002, 5e8)
        for a, b in [(one, other), (other, one)]
    ]


def test_a_run_that_begins_waits_for_enough_slots() -> None:
    run = Run(expected=3, min_workers=2)
    run.ready(A)
    run.step(Joined(B, 1))
    run.wait(4.0)
    what = "1 slot is ready, and at least 2 must be; workerpool1-1 loads the program"
    assert said(run) == (what, 4.0, math.inf, "")


def test_a_run_that_has_enough_waits_for_those_it_has_asked_for() -> None:
    run = Run(expected=3, min_workers=2, start_wait=60.0)
    run.ready(A, B)
    run.wait(4.0)
    assert said(run) == ("2 of 3 slots are ready", 4.0, 60.0, "the run begins with 2")


def test_a_fleet_waits_for_those_whom_the_other_jobs_do_not_reach_yet() -> None:
    one, two, three = (MemberId(f"{job}/workerpool0-0", "first") for job in (1, 2, 10))
    run = Run(expected=3, min_workers=3)
    run.ready(one, two)
    run.step(Joined(three, 1))
    run.wait(4.0)
    loads, apart = "10/workerpool0-0 loads the program", "have yet to show that they reach each"
    left = f"; 2/workerpool0-0 and attempt 1 {apart} other"
    assert said(run)[0] == f"1 slot is ready, and at least 3 must be; {loads}{left}"
    run.step(Ready(three), *both(two, one))
    left = f"; 10/workerpool0-0 and attempts 1 and 2 {apart} other"
    assert said(run)[0] == f"2 slots are ready, and at least 3 must be{left}"
    run.step(*both(three, one), *both(three, two))
    assert "reach" not in said(run)[0]


def test_a_world_that_forms_waits_for_those_who_have_not_begun() -> None:
    run = Run(expected=2)
    run.ready(A, B)
    run.step(Started(A, 1, 0))
    run.wait(5.0)
    what = "workerpool1-1 to begin generation 1"
    limit = run.machine.timeouts(run.now).stall
    assert said(run) == (what, 5.0, limit, "another world forms"), "it may be reading a file"
    run.step(Progress(B, 1, received=3 * 2**20))
    assert said(run)[:2] == (f"{what}; 3 MiB of the state have come", 0.0)


def test_a_world_that_runs_waits_for_a_step_that_takes_much_longer_than_usual() -> None:
    run = Run(expected=2, stall=600.0)
    run.start(A, B)
    assert said(run)[0] == "step 1; no step is measured yet, and all 2 workers live"
    for step in range(1, 4):
        run.wait(2.0)
        run.step(Progress(A, 1, step))
    run.wait(15.0)
    assert run.machine.explain(run.now) is None
    run.wait(10.0)
    what = "step 4; the last ones took 2 s each, and all 2 workers live"
    assert said(run) == (what, 25.0, 600.0, "another world forms")


def test_of_a_world_of_one_a_step_is_waited_for_without_end() -> None:
    run = Run(expected=1)
    run.start(A)
    run.wait(30.0)
    what, _, _, then = said(run)
    assert "its only worker lives" in what
    assert then == "it is told once more, and the wait goes on"


def test_no_step_is_waited_for_of_a_script_that_tells_none() -> None:
    run = Run(expected=1, max_restarts=3)
    run.start(A)
    run.wait(1000.0)
    assert run.machine.explain(run.now) is None


def test_a_world_that_stops_waits_for_those_who_have_not_left() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Progress(A, 1, 5), Drain(A, "notice", 60.0), Stopped(A, 1, 5))
    run.wait(1.0)
    what = "workerpool1-1, workerpool1-2 to leave generation 1"
    limit = run.machine.timeouts(run.now).pause
    assert said(run) == (what, 1.0, limit, "the generation is broken off")
    run.step(Crashed(B, reason="SIGSEGV"))
    assert said(run)[3] == "their workers are replaced"


def test_a_run_that_has_lost_too_many_waits_for_machines() -> None:
    run = Run(expected=2, min_workers=2)
    run.start(A, B)
    run.step(Left(B, "its VM is gone"), Stopped(A, 1, 3))
    run.wait(20.0)
    assert run.phase is Phase.WAITING
    assert said(run) == ("1 slot is ready, and at least 2 must be", 20.0, math.inf, "")


def test_a_run_whose_sizes_cannot_be_had_says_which_they_are() -> None:
    run = Run(expected=4, min_workers=4, sizes=(4,))
    run.ready(A, B, C)
    assert said(run)[0] == "3 slots are ready, and at least 4 must be"
    run = Run(expected=4, min_workers=1, sizes=(2, 4))
    run.ready(A, slots=3)
    run.wait(100.0)
    assert said(run)[0] == "a world of 2 or 4 workers; 3 slots are ready"


def test_the_only_holder_of_the_state_is_waited_for() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, 5), Left(A, "its connection broke"))
    run.wait(2.0, alive=())
    what = "workerpool1-0, which alone has the state, to connect again"
    assert said(run) == (what, 2.0, AWAY, "others go on from a checkpoint")


def test_nothing_is_waited_for_when_it_is_over() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Done(A, 1, 5))
    assert run.machine.explain(run.now) is None


def test_many_names_are_not_all_told() -> None:
    run = Run(expected=5)
    members = [A, B, C, *(type(A)(f"workerpool1-{n}", "x") for n in (7, 8))]
    run.ready(*members)
    what = said(run)[0]
    assert what == "workerpool1-0, workerpool1-1, workerpool1-2 and 2 more to begin generation 1"


# --- when it is told -----------------------------------------------------------------


def test_a_wait_is_told_of_after_a_while_and_ever_more_seldom() -> None:
    telling, wait = Telling(), Wait("x", 100.0)
    told = [now for now in range(100, 1100) if telling.is_due(wait, float(now))]
    assert told == [110, 130, 190, 370, 910]


def test_another_wait_is_told_of_by_itself() -> None:
    telling = Telling()
    assert telling.is_due(Wait("x", 0.0), 500.0)
    assert not telling.is_due(Wait("y", 500.0), 505.0)
    assert telling.is_due(Wait("y", 500.0), 510.0)


@given(st.lists(st.floats(0.0, 5.0), max_size=50))
def test_what_is_soon_over_is_never_told(waits: list[float]) -> None:
    telling, now = Telling(), 0.0
    for seconds in waits:
        assert not telling.is_due(Wait("x", now), now + seconds)
        now += seconds
