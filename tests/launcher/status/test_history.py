"""A run's history, folded from its events."""

from __future__ import annotations

from launcher.status.history import History
from launcher.status.ledger import ledger_of
from launcher.status.status import build_status
from tests.launcher.status.events import RIDE, A, C, event, formed, resumed, steps


def test_a_notice_that_a_second_leader_hears_of_is_counted_once() -> None:
    notice = {"member": "workerpool1-0", "reason": "SIGTERM"}
    told = [event("drain", at, **notice) for at in (10.0, 10.2, 300.0)]
    assert History(told).drains == 2


def test_each_generation_owns_the_steps_that_the_next_did_not_do_again() -> None:
    assert History(RIDE).stretches() == [(1, 1, 10), (2, 11, 14), (3, 15, 16)]


def test_members_are_as_they_were_last_heard_of() -> None:
    history = History(RIDE)
    assert (history.members[A], history.members[C]) == ("active", "lost")


def test_a_generation_that_nobody_saw_begin_began_where_its_steps_do() -> None:
    history = History([steps(4, 10.0, 21, [1.0, 0.5])])
    assert history.step == 22
    assert history.current and history.current.start == 20


def test_a_world_that_stands_still_is_as_far_as_its_leader_says() -> None:
    """Rank 0 tells of steps a few times a second, with the next one, which does not come."""
    told = [resumed(1, 0.0, "start", 0), steps(1, 1.0, 1, [0.5] * 37)]
    assert History(told).step == 37
    still = event("standstill", 3.0, generation=1, step=38, seconds=2.0, reason="…")
    for known in ([*told, still], [still, *told]):
        assert History(known).step == 38


def test_who_forms_a_world_may_be_lost_before_it_tells_and_its_successor_does() -> None:
    who = {"generation": 4, "world_size": 2, "members": [A, C]}
    told = [steps(4, 10.0, 21, [1.0]), event("world_adopted", 20.0, **who, term=3)]
    before = event("generation_formed", 5.0, **who, cause="grow", term=2)
    for known in (told, told[::-1], [before, *told], [*told, before]):
        history = History(known)
        assert history.current and history.current.members == [A, C]
        assert history.current.world_size == 2 and history.members[C] == "active"
        assert history.current.cause == ("grow" if before in known else None)


def test_a_metric_is_not_finite_since_its_last_finite_step_also_when_that_is_told_late() -> None:
    told = [steps(1, 1.0, 1, ["nan"]), steps(1, 3.0, 3, ["nan"]), steps(1, 2.0, 2, [1.0])]
    assert History(told).nonfinite == {"loss": 3}


def of_script(*worlds: tuple[float, str, list[int]]) -> History:
    """A torchrun script's history: when each world began, why, and the steps it reported."""
    history = History()
    for number, (at, cause, reported) in enumerate(worlds, start=1):
        history.add({"event": "generation_formed", "time": at, "generation": number,
                     "world_size": 2, "cause": cause, "members": [A]})  # fmt: skip
        history.add({"event": "resumed", "time": at, "generation": number, "cause": cause})
        for count, step in enumerate(reported, start=1):
            history.add({"event": "steps", "time": at + count, "generation": number,
                         "first": step, "metrics": {"loss": [1.0]}})  # fmt: skip
    return history


def test_steps_that_a_script_makes_again_are_lost_and_so_is_their_time() -> None:
    history = of_script((0.0, "start", [1, 2, 3, 4, 5]), (10.0, "loss", [4, 5, 6, 7]))
    assert history.step == 7
    assert history.steps_lost == 2, "4 and 5"
    assert [one["seconds"] for one in history.pauses] == [6.0], "from 5 at 5 s to 4 at 11 s"
    ledger = ledger_of(history, 14.0)
    assert ledger is not None
    assert {name: took for name, took in ledger.seconds.items() if took} == {
        "training": 7.0,
        "repeated": 2.0,
        "starting": 5.0,
    }


def test_a_script_that_tells_no_metrics_has_none() -> None:
    history = of_script((0.0, "start", [1]))
    history.add({"event": "steps", "time": 2.0, "generation": 1, "first": 2,
                 "metrics": {"step": [2.0]}})  # fmt: skip
    assert (history.step, history.metrics) == (2, {"loss": 1.0})


def test_a_script_that_reports_now_and_then_has_its_stride_counted_in() -> None:
    history = of_script((0.0, "start", [10, 20, 30, 40]), (10.0, "loss", [30, 40, 50]))
    assert history.steps_lost == 20, "it went on from step 20"


def test_where_a_script_began_is_known_once_its_stride_is() -> None:
    history = of_script((0.0, "start", [20]))
    assert (history.generations[1].start, history.told_every) == (19, 0)
    history = of_script((0.0, "start", [20, 40]), (10.0, "loss", [20, 40, 60]))
    assert [one.start for one in history.in_order] == [0, 0]
    assert (history.steps_lost, history.told_every) == (40, 20)
    ledger = ledger_of(history, 14.0)
    assert ledger is not None and ledger.seconds["training"] == 1.0 + 2.0, "all of three reports"


def test_a_script_that_saved_before_it_ended_loses_nothing() -> None:
    history = of_script((0.0, "start", [1, 2, 3]), (10.0, "drain", [4, 5]))
    assert history.steps_lost == 0
    assert [one["seconds"] for one in history.pauses] == [8.0]


def test_steps_that_are_made_three_times_are_lost_twice_as_far_as_each_world_got() -> None:
    history = of_script(
        (0.0, "start", [1, 2, 3, 4, 5]), (10.0, "loss", [2, 3]), (20.0, "loss", [2, 3, 4, 5, 6])
    )
    assert history.steps_lost == 2 + 4


def test_worlds_that_ended_before_their_first_report_count_once() -> None:
    history = of_script((0.0, "start", [1, 2, 3]), (10.0, "loss", []), (20.0, "loss", [3, 4]))
    assert history.steps_lost == 1


def test_of_a_script_that_says_nothing_nothing_is_claimed() -> None:
    history = of_script((0.0, "start", []), (10.0, "loss", []))
    assert not history.steps_known
    status = build_status("one", history, [], None, now=12.0)
    assert (status["goodput"], status["ledger"], status["steps_lost"]) == (None, None, None)


def test_a_job_that_never_was_in_a_world_is_told_of_with_both_addresses_and_why() -> None:
    apart = event(
        "unreachable",
        9.0,
        member="2/workerpool0-0",
        peer="1/workerpool0-0",
        address="10.1.0.2",
        peer_address="10.0.0.2",
        reason="2/workerpool0-0 does not reach 1/workerpool0-0: timed out",
    )
    history = History(
        [formed(1, 8.0, "start", ["1/workerpool0-0"]), apart, {**apart, "time": 19.0}]
    )
    assert history.unreached == {
        2: "2/workerpool0-0 does not reach 1/workerpool0-0: timed out; they are at 10.1.0.2 and "
        "10.0.0.2"
    }
    history.add(formed(2, 30.0, "grow", ["1/workerpool0-0", "2/workerpool1-0"]))
    assert history.unreached == {}


def test_what_is_waited_for_says_where_the_ranks_are_once_somebody_has_looked() -> None:
    history = History([formed(1, 0.0, "start", ["a"]), resumed(1, 0.0, "start", 0)])
    history.add(event("held_up", 20.0, reason="step 1", seconds=10.0))
    history.add(event("standstill", 40.0, reason="rank 0 computes in f (a.py:3)", seconds=30.0))
    assert history.held_up is not None
    assert history.held_up.what == "step 1; rank 0 computes in f (a.py:3)"
    history.add(event("held_up", 60.0, reason="step 1", seconds=50.0))
    assert history.held_up.what == "step 1; rank 0 computes in f (a.py:3)"
    history.add(steps(1, 70.0, 1, [1.0]))
    assert history.held_up is None
    history.add(event("held_up", 90.0, reason="step 2", seconds=15.0))
    assert history.held_up is not None and history.held_up.what == "step 2", "that is another wait"


def test_a_world_of_days_is_kept_in_some_hundred_parts_and_its_newest_steps_in_fine_ones() -> None:
    each = 4.0  # seconds of a step, of 30,000
    took = {"seconds": each, "accounts": {"all": 2 * each, "waiting": each}}
    told = [steps(1, each * step, step, [0.5]) | took for step in range(1, 30_001)]
    (world,) = History(told).in_order
    assert len(world.stretches) < 500
    assert sum(one.seconds for one in world.stretches) == 30_000 * each
    assert sum(one.last - one.first + 1 for one in world.stretches) == 30_000
    parts = [one.accounts or {} for one in world.stretches]
    assert sum(one["waiting"] for one in parts) == 30_000 * each
    speed = world.speed
    assert speed is not None and 5.0 <= speed.seconds <= 20.0, "it is that of its newest steps"
