"""Every figure of status and summary, case by case, against what one computes by hand."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.status.figures import NOTHING
from launcher.status.history import History
from launcher.status.status import Outcome, build_status
from tests.launcher.status.events import A, B, C, event, first, formed, resumed, steps
from trainer.rundir.events import Event


def figures(events: list[Event], now: float | None = None) -> dict[str, Any]:
    """What the status of a run says; it goes on if there is a ``now``."""
    outcome = Outcome("succeeded", "", {}) if now is None else None
    return build_status("one", History(events), [], outcome, now=now)


def trains(
    generation: int, at: float, start: int, count: int, cause: str = "start", **more: Any
) -> list[Event]:
    """A world of steps of a second; the first one has compiled for four more."""
    return [
        formed(generation, at - 1.0, cause, [A]),
        resumed(generation, at, cause, start, **more),
        first(generation, at + 5.0, start + 1, 5.0),
        steps(generation, at + 4.0 + count, start + 1, [1.0] * count, count - 1.0),
    ]


def test_an_undisturbed_run_trains_all_the_time() -> None:
    found = figures([*trains(1, 100.0, 0, 50), event("finished", 154.0, step=50)])
    assert (found["pauses"], found["step"]) == ([], 50)
    assert found["goodput"] == round(50 / 55, 4), "it formed for a second, and compiled for four"


def test_time_after_the_last_step_is_not_training() -> None:
    found = figures([*trains(1, 100.0, 0, 50), event("finished", 203.0, step=50)])
    assert found["goodput"] == round(50 / 104, 4)


def test_a_run_that_waits_trains_less_and_less() -> None:
    events = trains(1, 100.0, 0, 50)
    assert figures(events, now=154.0)["goodput"] == round(50 / 55, 4)
    assert figures(events, now=156.0)["goodput"] == round(50 / 55, 4), "the next step is on its way"
    assert figures(events, now=252.0)["goodput"] == round(50 / 153, 4)


def paced(generation: int, at: float, start: int, times: list[float], batch: int) -> list[Event]:
    """A world of steps that took so long; each of them is reported by itself."""
    told, now = [formed(generation, at, "start", [A]), resumed(generation, at, "start", start)], at
    for number, seconds in enumerate(times, start + 1):
        timed = 0.0 if number == start + 1 else seconds  # none before it in its world
        now += seconds
        samples = batch if timed else 0
        told.append(steps(generation, now, number, [1.0], timed, samples=samples))
    return told


def test_speed_is_of_the_newest_steps_without_the_first_of_the_world() -> None:
    compiled = paced(1, 100.0, 0, [30.0, 0.5, 0.5, 1.0], batch=32)
    assert figures(compiled, now=200.0)["speed"] == {
        **NOTHING,
        "steps": 1.5,
        "samples": 48.0,
    }
    slower = paced(1, 100.0, 0, [30.0] + [0.1] * 1000 + [2.0] * 10, batch=32)
    speed = figures(slower, now=1000.0)["speed"]
    assert 0.5 <= speed["steps"] < 10 * 0.1 and speed["samples"] == pytest.approx(
        32 * speed["steps"], rel=1e-3
    ), "what the last 10 to 20 seconds had"


def test_speed_has_the_time_between_steps_in_it_and_no_pause() -> None:
    evaluated = paced(1, 100.0, 0, [1.0, 1.0, 1.0, 5.0, 1.0], batch=8)  # 4 s of it for that
    assert figures(evaluated, now=120.0)["speed"] == {
        **NOTHING,
        "steps": 0.5,
        "samples": 4.0,
    }
    after = paced(2, 160.0, 5, [3.0, 2.0], batch=8)
    assert figures([*evaluated, *after], now=165.0)["speed"] == {
        **NOTHING,
        "steps": 0.5,
        "samples": 4.0,
    }
    assert figures([*evaluated, *after[:3]], now=163.0)["speed"] == {
        **NOTHING,
        "steps": None,
        "samples": None,
    }


def test_there_is_no_speed_while_nobody_trains() -> None:
    trained = paced(1, 100.0, 0, [1.0] * 5, batch=8)
    waiting = event("waiting", 110.0, slots=1, min_workers=2)
    assert figures([*trained, waiting], now=111.0)["speed"] == {
        **NOTHING,
        "steps": None,
        "samples": None,
    }
    assert figures([], now=1.0)["speed"] == NOTHING


def test_what_batches_were_waited_for_is_a_part_of_the_time_of_those_steps() -> None:
    told = [formed(1, 100.0, "start", [A]), resumed(1, 100.0, "start", 0)]
    for number, waited in enumerate([0.1, 0.2, 0.6], 1):
        seconds = 0.0 if number == 1 else 1.0
        told.append(steps(1, 100.0 + number, number, [1.0], seconds, data_wait=waited))
    assert figures(told, now=104.0)["speed"]["data_wait"] == pytest.approx(0.4, abs=0.051)
    unknown = steps(1, 105.0, 4, [1.0], 1.0)
    assert figures([*told[:2], unknown], now=106.0)["speed"]["data_wait"] is None


def test_tokens_operations_and_what_is_left_follow_from_samples() -> None:
    trained = paced(1, 100.0, 0, [3.0, 0.5, 0.5], batch=32)
    for one in trained[2:]:
        one["metrics"]["tokens_per_sample"], one["total_steps"] = [500.0], 1003
    started = event("attempt_started", 1.0, attempt=1, replicas=2, wanted=2, flops=2 * 4e12)
    on_cpus = event("rates", 103.0, flops=1e9, device="cpu")
    found = figures([started, *trained, on_cpus], now=105.0)
    assert found["speed"] == {
        **NOTHING,
        "steps": 2.0,
        "samples": 64.0,
        "tokens": 64.0 * 500,
        "flops": 64.0e9,
        "left": 500.0,
    }
    over = figures([started, *trained, on_cpus])
    assert over["speed"] == {**found["speed"], "left": None}, "nothing follows, nor was a pause"
    on_gpus = event("rates", 103.0, flops=1e9, device="NVIDIA H100 80GB HBM3")
    speed = figures([started, *trained, on_gpus], now=105.0)["speed"]
    assert speed["mfu"] == 64e9 / 4e12, "one VM is in the world"
    assert figures([*trained, on_gpus], now=105.0)["speed"]["mfu"] is None, "of what machine?"


def test_the_speed_of_a_run_that_is_over_is_that_of_the_whole_run() -> None:
    slow = paced(1, 100.0, 0, [30.0] + [2.0] * 10, batch=32)  # until 150
    again = [
        formed(2, 158.0, "loss", [A]),
        resumed(2, 159.0, "loss", 9, seconds=9.0),  # two steps are done again
        first(2, 160.0, 10, 1.0),
        steps(2, 170.0, 10, [1.0] * 11, 10.0, samples=320),
    ]
    end = event("finished", 199.0, step=20)
    on = figures([*slow, *again], now=171.0)["speed"]
    assert (on["steps"], on["samples"]) == (1.0, 32.0), "the newest world's newest steps"
    over = figures([*slow, *again, end])["speed"]
    assert over["steps"] == pytest.approx(19 / 40, rel=1e-3), "from 130 to 170, pause included"
    assert over["samples"] == pytest.approx(32 * over["steps"], rel=1e-3)
    failed = build_status("one", History([*slow, *again]), [], Outcome("failed", "", {}))
    assert failed["speed"] == over, "also of one that has failed"


def test_what_gpus_compute_at_most_counts_while_they_were_in_the_world() -> None:
    rates = event("rates", 100.0, flops=1e9, device="NVIDIA H100 80GB HBM3")
    began = event("attempt_started", 1.0, attempt=1, replicas=2, wanted=2, flops=2 * 4e12)
    two = paced(1, 100.0, 0, [1.0, 1.0, 1.0], batch=32)
    two[0]["members"] = [A, B]
    one = paced(2, 104.0, 3, [1.0, 1.0], batch=32)  # a second later
    over = figures([began, rates, *two, *one])["speed"]
    flops = 32e9 * 4  # of steps 2 to 5, from 101 to 106
    assert over["mfu"] == pytest.approx(flops / (2 * 4e12 * 2 + 4e12 * 3), rel=1e-3)


def test_each_world_has_its_own_speed() -> None:
    events = [*paced(1, 100.0, 0, [30.0, 0.5, 0.5], batch=8), formed(2, 140.0, "loss", [A])]
    worlds = figures([*events, *paced(3, 150.0, 3, [9.0, 2.0, 2.0], batch=8)])["generations"]
    assert [one["speed"] for one in worlds] == [2.0, None, 0.5]


def test_a_pause_ends_with_a_completed_step_and_compiling_is_in_it() -> None:
    events = [*trains(1, 100.0, 0, 50), *trains(2, 156.0, 50, 50, "drain", seconds=2.0)]
    found = figures([*events, event("finished", 210.0, step=100)])
    assert found["pauses"] == [{"cause": "drain", "seconds": 7.0, "generation": 2, "step": 50}]
    assert found["goodput"] == round(100 / 111, 4)


def test_worlds_without_a_step_have_no_pause_of_their_own() -> None:
    lost = [formed(2, 157.0, "loss", [A]), resumed(2, 158.0, "loss", 50, seconds=4.0)]
    events = [*trains(1, 100.0, 0, 50), *lost, *trains(3, 164.0, 50, 50, "loss", seconds=10.0)]
    found = figures([*events, event("finished", 218.0, step=100)])
    assert [(one["generation"], one["seconds"]) for one in found["pauses"]] == [(3, 15.0)]


def test_a_pause_is_told_by_what_ended_the_steps_not_by_who_came_meanwhile() -> None:
    lost = [formed(2, 157.0, "loss", [A]), resumed(2, 158.0, "loss", 50, seconds=4.0)]
    events = [*trains(1, 100.0, 0, 50), *lost, *trains(3, 164.0, 50, 50, "grow", seconds=10.0)]
    events += trains(4, 240.0, 100, 50, "drain", seconds=2.0)
    assert [one["cause"] for one in figures(events)["pauses"]] == ["loss", "drain"]


def test_an_outage_that_no_worker_lived_through_is_a_pause() -> None:
    events = [*trains(1, 100.0, 0, 50), *trains(2, 184.0, 40, 60, "start")]
    events[4]["cause"] = events[5]["cause"] = "leader"
    found = figures([*events, event("finished", 248.0, step=100)])
    assert found["pauses"] == [{"cause": "leader", "seconds": 35.0, "generation": 2, "step": 40}]
    assert found["steps_lost"] == 10
    assert found["goodput"] == round((40 + 60) / 149, 4), "10 of 50 steps were repeated"


def test_clocks_that_differ_do_not_flatter() -> None:
    """The world that follows is led, and ends, on a VM whose clock is 1,000 s behind."""
    begins = trains(1, 1100.0, 0, 50)
    lived = [*begins, *trains(2, 156.0, 50, 50, "loss", seconds=2.0)]
    found = figures([*lived, event("finished", 210.0, step=100)])
    assert found["goodput"] == round(100 / (55 + 2 + 54), 4)
    outage = [*begins, *trains(2, 184.0, 40, 60, "leader")]
    found = figures([*outage, event("finished", 248.0, step=100)])
    assert found["goodput"] == round((40 + 60) / (55 + 64), 4), "how long it was, nobody knows"
    found = figures([*begins, event("finished", 1050.0, step=50)])
    assert found["goodput"] == round(50 / 55, 4), "what is known of it"


def test_time_between_attempts_is_no_training() -> None:
    events = [*trains(1, 100.0, 0, 50), event("attempt_ended", 160.0, attempt=1, state="FAILED")]
    events += trains(2, 760.0, 50, 50, "leader")
    found = figures([*events, event("finished", 814.0, step=100)])
    assert found["ledger"]["goodput"]["wanted"] == round(100 / 715, 6)
    assert found["goodput"] == round(100 / (61 + 55), 4), "no VM was there"


def test_a_plain_script_that_begins_again_has_lost_what_it_does_again() -> None:
    events = [*trains(1, 100.0, 0, 50), *trains(2, 160.0, 0, 100, "loss")]
    found = figures([*events, event("finished", 264.0, step=100)])
    assert found["steps_lost"] == 50
    assert found["goodput"] == round(100 / 165, 4)
    assert found["pauses"][0]["seconds"] == 11.0, "from step 50 at 154 to step 1 at 165"


def test_a_step_that_is_reported_twice_counts_once() -> None:
    events = trains(1, 100.0, 0, 50)
    again = steps(1, 154.5, 41, [1.0] * 10, 10.0)
    found = figures([*events, again, event("finished", 154.0, step=50)])
    assert found["goodput"] == round(50 / 55, 4)


def test_what_a_leader_knew_of_counts_though_nobody_reported_it() -> None:
    events = [*trains(1, 100.0, 0, 50), event("paused", 157.0, generation=1, step=53, cause="loss")]
    assert figures(events, now=158.0)["step"] == 53
    events += trains(2, 160.0, 50, 2, "loss", lost_steps=3)
    assert figures(events, now=170.0)["steps_lost"] == 3


def test_the_last_step_is_that_of_the_end() -> None:
    assert figures([*trains(1, 100.0, 0, 50), event("finished", 155.0, step=51)])["step"] == 51


def left_out(step: int, action: str = "skip", **more: Any) -> Event:
    return event("nonfinite", 130.0, step=step, action=action, **more)


def test_steps_that_were_left_out_are_no_training() -> None:
    events = [*trains(1, 100.0, 0, 50), *(left_out(step) for step in range(11, 31))]
    found = figures([*events, event("finished", 154.0, step=50)])
    assert found["steps_left_out"] == 20
    assert found["goodput"] == round(30 / 55, 4), "20 of 50 seconds changed nothing"


def test_a_step_that_was_left_out_and_is_no_part_of_what_counts_is_not_taken_off_twice() -> None:
    """What was done again counts for nothing anyway, nor does what nobody has done."""
    events = [*trains(1, 100.0, 0, 50), *trains(2, 160.0, 40, 20, "loss", seconds=10.0)]
    before = figures([*events, event("finished", 190.0, step=60)])["goodput"]
    for step in (61, 70):
        found = figures([*events, left_out(step), event("finished", 190.0, step=60)])
        assert found["goodput"] == before
    again = steps(1, 154.5, 1, [1.0] * 10, 9.0)  # reported twice
    span = 55 + 10 + 24 + 6  # the leader's clock is 4 s behind what its workers' clocks tell
    assert before == round((40 + 20) / span, 4)
    for step in (1, 5, 41):
        found = figures([*events, again, left_out(step), event("finished", 190.0, step=60)])
        assert found["goodput"] == round((39 + 20) / span, 4), step


def committed(step: int, at: float) -> Event:
    return event("checkpoint_committed", at, step=step, bytes=9, seconds=0.1)


@pytest.mark.parametrize(
    "events, newest",
    [
        ([committed(10, 1.0), committed(20, 2.0)], 20),
        ([committed(10, 1.0), committed(20, 2.0), committed(15, 3.0)], 15),  # from step 10 again
        ([committed(10, 1.0), committed(20, 200.0), left_out(21, "rollback", checkpoint=10)], 20),
        ([committed(10, 1.0), committed(20, 2.0), left_out(21, "rollback", checkpoint=10)], 10),
        ([committed(20, 2.0), left_out(21, "rollback", checkpoint=10)], None),
        ([committed(10, 1.0), committed(20, 2.0), left_out(21, "skip", checkpoint=10)], 20),
        ([committed(10, 1.0), committed(20, 2.0), event("checkpoint_rejected", 3.0, step=20)], 10),
        ([committed(20, 4.0), event("checkpoint_rejected", 3.0, step=20)], 20),  # written anew
    ],
)
def test_the_newest_checkpoint_is_one_that_is_there_and_can_be_used(
    events: list[Event], newest: int | None
) -> None:
    for order in (events, events[::-1]):
        assert figures(order)["checkpoint"]["step"] == newest


def test_a_step_is_owned_by_the_last_world_that_has_done_it() -> None:
    """A world that begins, and goes back to a checkpoint before it has completed a step."""
    events = [*trains(1, 100.0, 0, 11), formed(2, 116.0, "loss", [A])]
    events += [resumed(2, 117.0, "loss", 11, seconds=2.0), *trains(3, 120.0, 8, 22, "rollback")]
    assert History(events).stretches() == [(1, 1, 8), (3, 9, 30)]
    audit = [
        {"generation": world, "step": step, "epoch": 0, "dataset_size": 30, "ids": [step]}
        for world, start, last in ((1, 0, 11), (2, 11, 12), (3, 8, 30))
        for step in range(start + 1, last + 1)
    ]
    outcome = Outcome("succeeded", "", {})
    status = build_status("one", History(events), [], outcome, audit, now=999.0)
    assert (status["samples_repeated"], status["samples_skipped"]) == (0, 0)
    assert [one["exactly_once"] for one in status["epochs"]] == [True]


def test_a_run_of_one_step_has_no_share_of_time() -> None:
    assert figures(trains(1, 100.0, 0, 1)[:3], now=300.0)["goodput"] is None


def test_an_older_run_knows_no_goodput_and_its_pauses_end_with_the_world() -> None:
    events = [
        formed(1, 99.0, "start", [A, B]),
        resumed(1, 100.0, "start", 0),
        steps(1, 110.0, 1, [1.0] * 10),
        formed(2, 111.0, "drain", [A]),
        resumed(2, 112.0, "drain", 10, seconds=1.5),
        steps(2, 120.0, 11, [1.0] * 5),
    ]
    found = figures(events)
    assert (found["goodput"], [one["seconds"] for one in found["pauses"]]) == (None, [1.5])


# --- losses -----------------------------------------------------------------------


def loss(member: str, term: int, gone: bool = True, incarnation: str = "a") -> Event:
    return event("loss", 1.0, member=member, term=term, gone=gone, incarnation=incarnation)


def joined(member: str, term: int, incarnation: str = "a") -> Event:
    return event("member_joined", 2.0, member=member, term=term, incarnation=incarnation)


@pytest.mark.parametrize(
    "events, count",
    [
        ([loss(A, 1), loss(B, 1)], 2),
        ([loss(A, 1), loss(A, 1, incarnation="b")], 2),
        ([loss(A, 1, gone=False), loss(A, 1, gone=False)], 2),  # two of its workers
        ([loss(A, 1), loss(A, 2)], 1),  # the next leader misses it, too
        ([loss(A, 1), joined(A, 2)], 0),  # it has gone over
        ([joined(A, 2), loss(A, 1)], 0),
        ([loss(A, 1), joined(A, 2), loss(A, 2)], 1),  # and was lost there
        ([joined(A, 1), loss(A, 1), joined(A, 1)], 1),  # it came back to the same
        ([event("loss", 1.0, member=A), event("loss", 2.0, member=A)], 2),  # of an older version
    ],
)
def test_what_is_one_loss(events: list[Event], count: int) -> None:
    assert History(events).losses == count


def world(term: int, at: float = 3.0, of: str = A) -> Event:
    return {**formed(term, at, "leader", [of]), "term": term}


def adopted(term: int, *members: str) -> Event:
    return event(
        "world_adopted", 2.5, generation=1, world_size=len(members), members=[*members], term=term
    )


def ended(verdict: str, at: float = 4.0) -> Event:
    return event("attempt_ended", at, attempt=1, state="FAILED", verdict=verdict)


def notice(member: str) -> Event:
    return event("drain", 2.5, member=member, reason="SIGTERM", deadline_seconds=15.0)


def notice_by_another_clock(member: str) -> Event:
    """An hour behind: of the incarnation that it names, whenever that was."""
    return {**notice(member), "time": 2.5 - 3600.0, "incarnation": "a"}


def fault(member: str, then: str) -> Event:
    return event("fault", 2.5, member=member, whose="machine", then=then, faults=2)


@pytest.mark.parametrize(
    "events, count",
    [
        ([joined(A, 1), joined(B, 1), joined(A, 2, "b"), world(2)], 2),  # two VMs, and one is back
        ([joined(A, 1), joined(B, 1), joined(A, 2), world(2)], 1),
        ([joined(A, 1), joined(B, 1), joined(A, 2)], 0),  # the others may be on their way
        ([joined(A, 1), joined(B, 1), loss(B, 1), joined(A, 2), world(2), world(3, of=C)], 2),
        ([joined(A, 1), joined(B, 1), joined(B, 2), world(2)], 0),  # A was adopted with its world
        ([joined(A, 1), joined(B, 1), joined(B, 2), joined(A, 3, "b"), world(3)], 2),
        ([joined(A, 1), joined(B, 1), joined(B, 2), adopted(2, A, B)], 0),
        ([joined(A, 1), joined(B, 1), joined(B, 2), adopted(2, A, B), world(3, of=B)], 1),
        ([joined(A, 1), joined(B, 1), notice(B), joined(A, 2), world(2)], 0),
        ([joined(A, 1), joined(B, 1), notice_by_another_clock(B), joined(A, 2), world(2)], 0),
        ([joined(A, 1), joined(B, 1), fault(B, "replica"), joined(A, 2), world(2)], 0),
        ([joined(A, 1), joined(B, 1), fault(B, "process"), joined(A, 2), world(2)], 1),
        ([joined(A, 1), joined(B, 1), ended("stockout")], 2),  # taken, and nobody came after them
        ([joined(A, 1), joined(B, 1), ended("cancelled"), world(2, 5.0)], 0),  # by the launcher
        ([joined(A, 1), ended("user_error")], 0),
        ([joined("1/w", 1), joined("2/w", 1), ended("cancelled"), world(2, 5.0)], 1),  # of a fleet
        ([joined("1/w", 1), joined("2/w", 1), ended("stockout")], 1),
    ],
)
def test_what_no_leader_was_left_to_see_is_a_loss(events: list[Event], count: int) -> None:
    assert History(events).losses == count
    assert History(events[::-1]).losses == count


def test_a_notice_is_for_the_machine_that_is_there_then() -> None:
    events = [joined(A, 1), event("member_joined", 5.0, member=A, term=2, incarnation="b")]
    events += [world(2, 6.0), event("drain", 7.0, member=A, reason="SIGTERM")]
    assert History(events).losses == 1


def test_that_all_leave_when_the_run_has_ended_is_neither_a_drain_nor_a_loss() -> None:
    end = event("finished", 10.0, state="cancelled")
    drain = event("drain", 11.0, member=A, reason="SIGTERM", deadline_seconds=15.0)
    gone = event("loss", 12.0, member=B, term=1, gone=True, incarnation="a")
    for events in ([end, drain, gone], [drain, gone, end]):
        history = History(events)
        assert (history.drains, history.losses) == (0, 0)


# --- all of it --------------------------------------------------------------------


def test_a_drain_a_silent_loss_an_outage_repeated_steps_and_an_end_that_is_not_saved() -> None:
    """Steps take a second; worlds of A, B and C, of A and C, and of A, twice."""
    ride = [
        formed(1, 98.0, "start", [A, B, C]),
        resumed(1, 99.0, "start", 0, lost_steps=0),
        first(1, 104.0, 1, 5.0),
        steps(1, 113.0, 1, [2.0] * 10, 9.0),
        event("checkpoint_committed", 113.5, step=10, bytes=9, seconds=0.1),
        event("drain", 113.0, member=B, reason="notice", deadline_seconds=15.0),
        event("paused", 114.0, generation=1, step=10, cause="drain"),
        formed(2, 114.2, "drain", [A, C]),
        resumed(2, 114.5, "drain", 10, lost_steps=0, seconds=1.5),
        first(2, 116.0, 11, 1.5),  # 3 s since step 10
        steps(2, 125.0, 11, [1.5] * 10, 9.0),  # to step 20
        event("loss", 127.0, member=C, incarnation="a", term=1, gone=True),
        event("paused", 128.0, generation=2, step=20, cause="loss"),
        formed(3, 129.0, "loss", [A]),  # it loses its only worker before a step
        resumed(3, 130.0, "loss", 20, lost_steps=0, seconds=5.0),
        event("loss", 131.0, member=A, incarnation="a", term=1, gone=True),  # with the state
        formed(4, 160.0, "loss", [A]),
        resumed(4, 161.0, "loss", 10, lost_steps=10),  # from the checkpoint
        first(4, 163.0, 11, 2.0),
        steps(4, 182.0, 11, [1.0] * 20, 19.0),  # to step 30
        event("checkpoint_failed", 183.0, step=30, reason="No space left on device", failures=1),
        event("finished", 184.0, state="failed", step=30),
    ]
    status = build_status("one", History(ride), [], Outcome("failed", "", {}), now=999.0)
    assert status["step"] == 30
    assert status["steps_lost"] == 10
    assert (status["drains"], status["losses"]) == (1, 2)
    assert status["pauses"] == [
        {"cause": "drain", "seconds": 3.0, "generation": 2, "step": 10},
        {"cause": "loss", "seconds": 38.0, "generation": 4, "step": 10},  # 125 to 163
    ]
    seconds = {name: took for name, took in status["ledger"]["seconds"].items() if took}
    assert seconds == {
        # B until the second world, C until step 20, A until its last world; then A, from 160 on.
        "absent": 3 * 86.0 - (16.2 + 27.0 + 32.0 + 24.0),
        # All three form and compile, and so does A when it is back.
        "starting": 3 * (1.0 + 4.0) + 1.0 + 1.0,
        "training": 3 * 10.0,
        # B until the next world forms, A and C until it begins; its first step; A until 130.
        "re_forming": 1.2 + 2 * 1.5 + 2 * 0.5 + 5.0,
        "repeated": 2 * 10.0 + 20.0,  # the last ones are in no checkpoint
        "stopped": 2.0,
    }
    assert status["goodput"] == round(30.0 / 99.2, 4)
    assert status["checkpoint"] == {
        "step": 10,
        "age": 885.5,
        "failed": 1,
        "reason": "No space left on device",
    }
