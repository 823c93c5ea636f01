"""Why nothing happens has an answer before anybody leads, too: who has no machines says so."""

from __future__ import annotations

from typing import Any

from launcher.status.history import History
from launcher.status.status import Outcome, build_status
from launcher.status.waits import Telling, Wait
from tests.launcher.status.events import event
from trainer.rundir.events import Event


def attempt(number: int, state: str, **more: Any) -> dict[str, Any]:
    sent = {"job": f"projects/p/locations/us-east1/customJobs/{number}", "submitted": 102.0}
    known = {
        "attempt": number,
        "state": state,
        "region": "us-east1",
        "reason": "",
        "created": 101.0,
    }
    return {**known, **({} if state == "SUBMITTING" else sent), **more}


def waits_for(*attempts: dict[str, Any], events: tuple[Event, ...] = (), now: float = 142.0) -> Any:
    status = build_status("one", History(events), list(attempts), None, now=now, created=100.0)
    return status["waits_for"]


def leads(number: int | None) -> Event:
    fields = {} if number is None else {"attempt": number}
    return event("leader_changed", 110.0, term=1, member="workerpool0-0", **fields)


def test_a_run_of_which_nothing_is_sent_waits_for_its_launch() -> None:
    what = "the launch, which has not sent attempt 1 yet; swell attach RUN, if it is gone"
    assert waits_for() == f"waiting for 42 s: {what}"


def test_a_request_that_the_api_has_not_taken_has_no_vms() -> None:
    what = "the API in us-east1 to take attempt 1: no VM of it exists yet"
    assert waits_for(attempt(1, "SUBMITTING")) == f"waiting for 41 s: {what}"


def test_a_job_that_is_queued_has_no_vms_and_one_that_is_pending_not_all() -> None:
    what = "waiting for 40 s: machines for attempt 1 in us-east1: its CustomJob is"
    assert waits_for(attempt(1, "QUEUED")) == f"{what} queued, no VM of it exists yet"
    assert waits_for(attempt(1, "PENDING")) == f"{what} pending, its VMs are not all there yet"


def test_vms_of_which_none_leads_are_there() -> None:
    up = attempt(1, "RUNNING", started=132.0)
    what = "a leader: attempt 1 has its VMs, and none of their agents leads yet"
    assert waits_for(up) == f"waiting for 10 s: {what}; swell logs RUN says what they do"
    assert waits_for(up, events=(leads(1),)) is None, "from now on its leader says"
    assert waits_for(up, events=(leads(None),)) is None, "an older image does not say whose"


def test_who_led_an_earlier_attempt_does_not_lead_the_next() -> None:
    ended = attempt(1, "FAILED", ended=120.0)
    assert "a leader" in waits_for(ended, attempt(2, "RUNNING"), events=(leads(1),))
    what = "the launch, which has not sent attempt 2 yet"
    assert waits_for(ended, events=(leads(1),)).startswith(f"waiting for 22 s: {what}")


def test_an_attempt_that_is_put_off_says_when_it_is_sent() -> None:
    due = event("attempt_due", 121.0, attempt=2, choice="spot, us-east1", seconds=60.0)
    ended = attempt(1, "FAILED", ended=120.0)
    what = "attempt 2, which is due (spot, us-east1); in 39 s it is sent"
    assert waits_for(ended, events=(due,)) == f"waiting for 21 s: {what}"
    later = waits_for(ended, attempt(2, "FAILED", ended=130.0), events=(due,))
    assert "attempt 3" in later, "that one was sent"


def test_in_a_fleet_one_leader_is_enough() -> None:
    jobs = attempt(1, "RUNNING"), attempt(2, "QUEUED")
    assert waits_for(*jobs, events=(leads(1),)) is None
    assert "a leader: attempt 1" in waits_for(*jobs)


def test_what_the_leader_says_is_said_until_the_next_attempt_has_none() -> None:
    told = event("held_up", 120.0, reason="1 of 2 slots are ready", seconds=10.0)
    events = (leads(1), told)
    assert waits_for(attempt(1, "RUNNING"), events=events) == (
        "waiting for 32 s: 1 of 2 slots are ready"
    )
    assert "machines" in waits_for(attempt(1, "FAILED"), attempt(2, "QUEUED"), events=events)


def test_a_run_that_nobody_has_launched_and_one_that_is_over_wait_for_nothing() -> None:
    assert waits_for(events=(leads(1),)) is None, "its agents were started by hand"
    over = Outcome("cancelled", "", {})
    assert build_status("one", History(), [attempt(1, "QUEUED")], over)["waits_for"] is None


def test_a_wait_is_told_of_after_a_while_and_ever_more_seldom() -> None:
    telling = Telling()
    told = [now for now in range(100, 600) if telling.is_due(Wait("x", 100.0), float(now))]
    assert told == [110, 130, 190, 370]
    assert telling.is_due(Wait("y", 100.0), 600.0), "another one by itself"
