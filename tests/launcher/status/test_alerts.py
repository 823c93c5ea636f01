"""What somebody wants to hear of a run that goes on: told once, with what to do, and when over."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.job.checkpoint import Checkpoint
from launcher.job.durations import Steps
from launcher.job.job import Job
from launcher.job.notify import Notify
from launcher.status.alerts import (
    GOODPUT_EVERY,
    HOUR,
    STAYS,
    Alerts,
    Terms,
)
from launcher.status.history import History
from launcher.words import at_clock
from tests.launcher.status.events import event, formed, resumed, steps

POOLS = ["a2-highgpu-1g"]
MEMBERS = ["workerpool0-0", "workerpool1-0"]
SLOW = {"rank": 1, "member": "workerpool1-0", "ratio": 1.8, "reason": "a signal stops its process"}


def run_of(*more: Any) -> History:
    """A world of two that began at 0."""
    return History(
        [formed(1, 0.0, "start", MEMBERS), resumed(1, 0.0, "start", 0, seconds=0.0), *more]
    )


def straggler(at: float, **more: Any) -> Any:
    return event("straggler", at, generation=1, step=1, **{**SLOW, "over": False, **more})


def test_a_job_says_when_to_tell() -> None:
    job = Job.model_validate(
        {
            "name": "j",
            "task": "m:T",
            "pools": POOLS,
            "checkpoint": {"every": "10min"},
            "notify": {"url_env": "A", "goodput_below": 0.8, "cost_past": "100 USD"},
        }
    )
    assert Terms.of(job) == Terms(600.0, None, 3, 0.8, 100.0)
    by_steps = job.model_copy(update={"checkpoint": Checkpoint(every=Steps(500))})
    assert Terms.of(by_steps) == Terms(None, 500, 3, 0.8, 100.0)
    silent = job.model_copy(update={"notify": Notify(url_env="A", checkpoints_missed=5)})
    assert Terms.of(silent) == Terms(600.0, None, 5, None, None)


def test_a_straggler_that_stays_is_told_of_and_when_it_is_none_any_more() -> None:
    alerts, history = Alerts(Terms()), run_of(straggler(100.0))
    assert alerts.look(history, None, 100.0 + STAYS - 1) == []
    (told,) = alerts.look(history, None, 100.0 + STAYS)
    assert told == {
        "text": "has a straggler: rank 1 (workerpool1-0) takes 1.8 times as long as the others, "
        "for 5:00 by now (a signal stops its process); elastic.replace_stragglers lets its "
        "machine be replaced",
        "news": "straggler",
        "over": False,
        "since": 100.0,
        "member": "workerpool1-0",
        "rank": 1,
        "ratio": 1.8,
        "reason": "a signal stops its process",
    }
    assert alerts.look(history, None, 900.0) == []
    history.add(straggler(950.0, over=True))
    (over,) = alerts.look(history, None, 960.0)
    assert over["over"] and over["member"] == "workerpool1-0" and over["since"] == 100.0
    assert alerts.look(history, None, 961.0) == []


def test_that_nobody_looked_after_the_run_is_told_by_whoever_does_again_and_once() -> None:
    gone, back = (event("unattended", at, seconds=600.0, over=at > 5000) for at in (4000.0, 9000.0))
    alerts, history = Alerts(Terms()), run_of(gone)
    assert alerts.look(history, None, 8990.0) == [], "of itself it knows that it is there"
    history.add(back)
    (told,) = alerts.look(history, None, 9010.0)
    assert told["news"] == "unattended" and told["over"] is True
    assert (told["since"], told["until"]) == (8400.0, 9000.0)
    assert told["text"] == (
        "was looked after by nobody for 10:00: no attempt would have followed, and no limit was "
        "kept; controller in the job file has a machine of Vertex AI's do it"
    )
    assert alerts.look(history, None, 9020.0) == []
    assert Alerts(Terms()).look(history, None, 99000.0) == [], "who comes later has not to tell it"


def test_a_straggler_of_a_world_that_is_over_is_none() -> None:
    history = run_of(straggler(100.0))
    assert [one.rank for one in history.stragglers] == [1]
    history.add(formed(2, 200.0, "drain", MEMBERS[:1]))
    assert history.stragglers == []


def trains(history: History, until: int) -> None:
    """It completes a step in every ten seconds."""
    for step in range(history.step + 1, until + 1):
        history.add(steps(1, 10.0 * step, step, [1.0], seconds=10.0))


def test_a_checkpoint_that_does_not_come_is_told_of_and_when_it_comes() -> None:
    alerts, history = Alerts(Terms(seconds=100.0, missed=3)), run_of()
    trains(history, 30)
    history.add(event("checkpoint_failed", 290.0, step=29, reason="the bucket is gone", failures=1))
    assert alerts.look(history, None, 300.0) == []
    trains(history, 31)
    (told,) = alerts.look(history, None, 311.0)
    assert told["text"] == (
        "has no checkpoint at all (the bucket is gone): 31 steps would be lost with all its "
        "machines; look at the store's permissions and room, and at swell logs"
    )
    assert (told["news"], told["over"], told["since"]) == ("checkpoint", False, 0.0)
    assert alerts.look(history, None, 312.0) == []
    history.add(event("checkpoint_committed", 320.0, step=32, bytes=1, seconds=1.0))
    (over,) = alerts.look(history, None, 321.0)
    assert over["over"] and over["text"] == "has a checkpoint again, of step 32"
    trains(history, 70)
    (again,) = alerts.look(history, None, 700.0)
    assert f"since that of step 32, at {at_clock(320.0)}: 38 steps would be lost" in again["text"]


def test_intervals_may_be_counted_in_steps() -> None:
    alerts, history = Alerts(Terms(steps=10, missed=2)), run_of()
    trains(history, 20)
    assert alerts.look(history, None, 200.0) == []
    trains(history, 21)
    (told,) = alerts.look(history, None, 210.0)
    assert told["news"] == "checkpoint"


def test_a_run_that_stands_still_or_has_nothing_to_save_needs_no_checkpoint() -> None:
    alerts, history = Alerts(Terms(seconds=100.0)), run_of()
    assert alerts.look(history, None, 5000.0) == [], "that is a stall"
    trains(history, 3)
    assert alerts.look(history, None, 5000.0) == []
    assert Alerts(Terms()).look(history, None, 31.0) == [], "nobody has said how often"


def test_low_goodput_over_an_hour_is_told_with_what_it_was_lost_to() -> None:
    alerts, history = Alerts(Terms(goodput=0.8)), History()
    history.add(formed(1, 0.0, "start", MEMBERS))
    history.add(resumed(1, 10.0, "start", 0, seconds=0.0))
    half = {"all": 20.0, "data_wait": 10.0, "evaluation": 0.0, "checkpoint": 0.0}
    half |= {"communication": 0.0, "waiting": 0.0}
    last = int(HOUR / 10) + 10
    for step in range(1, last + 1):
        told = steps(1, 10.0 + 10.0 * step, step, [1.0], seconds=10.0, accounts=half)
        history.add(told)
        if 10.0 * step < HOUR - 100:
            assert alerts.look(history, None, 10.0 + 10.0 * step) == []
    now = 10.0 + 10.0 * last
    alerts = Alerts(Terms(goodput=0.8))
    found = alerts.look(history, None, now)
    assert [one["news"] for one in found] == ["goodput"]
    (told,) = found
    assert told["goodput"] == pytest.approx(0.5, abs=0.05) and told["below"] == 0.8
    assert "waiting for data 50%" in told["text"] or "waiting for data 49%" in told["text"]
    assert alerts.look(history, None, now + GOODPUT_EVERY) == [], "it is told once"


def test_cost_is_told_once() -> None:
    alerts, history = Alerts(Terms(usd=100.0)), run_of()
    assert alerts.look(history, None, 1.0) == alerts.look(history, 99.99, 2.0) == []
    (told,) = alerts.look(history, 101.5, 3.0)
    assert told["text"] == (
        "has cost 101.50 USD by estimate, past 100.00 USD, and goes on; swell cancel ends it, and "
        "limits.cost would end it by itself"
    )
    assert told["news"] == "cost"
    assert alerts.look(history, 500.0, 4.0) == []
