"""The policy: its table row by row, and whole runs played by it in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job.fallback import Limits, Resubmit
from launcher.supervision.attempt import UNSENT, Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.policy import (
    GRACE,
    Action,
    Cancel,
    Done,
    End,
    Find,
    Leave,
    Situation,
    Stop,
    Submit,
    Terms,
    Wait,
    Watch,
    decide,
)
from tests.launcher.supervision.policy_run import (
    STOCKOUT,
    PolicyRun,
    ends,
    job,
    ran,
    refused,
    stockout,
)
from trainer.rundir.attempts import REFUSED

CHOICES = tuple(choices_of(job(), "local"))
FIRST, SECOND = CHOICES
TERMS = Terms("run-1", CHOICES, created=0.0, stop_grace=600.0)


def attempt(state: str, reason: str = "", **more: Any) -> Attempt:
    fields = {"job": "name", "choice": FIRST.name, "ended": 100.0, **more}
    return Attempt(1, FIRST.region, "http://x", state=state, reason=reason, **fields)


def decided(last: Attempt | None, now: float = 100.0, terms: Terms = TERMS, **more: Any) -> Action:
    """What a fleet of one does: one thing at a time."""
    [action] = decide(terms, Situation((last,) if last else (), **more), now)
    return action


# --- row by row ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "action"),
    [
        (None, Submit(1, FIRST)),
        (attempt("SUBMITTING", job=None), Find(1)),
        (attempt("PENDING"), Watch()),
        (attempt("RUNNING"), Watch()),
        (attempt("SUCCEEDED"), End("succeeded", "the CustomJob succeeded")),
        (attempt("CANCELLED"), End("cancelled", "the CustomJob was cancelled")),
        (attempt("FAILED", "out of memory"), End("failed", "out of memory")),
        (attempt(REFUSED, "403 no", kind="permission", code=403), End("failed", "403 no")),
        (attempt("LOST", "404 it was deleted"), End("failed", "404 it was deleted")),
        (attempt("FAILED", STOCKOUT), Submit(2, SECOND)),
        (attempt("EXPIRED"), Submit(2, SECOND)),
        (attempt(REFUSED, "429 too many GPUs", kind="quota", code=429), Submit(2, SECOND)),
        (attempt("FAILED", "preempted", step=100), Submit(2, FIRST)),
        (attempt(REFUSED, "never sent", kind=UNSENT), Submit(2, FIRST)),
    ],
)
def test_the_table_without_an_outcome(last: Attempt | None, action: Action) -> None:
    assert decided(last) == action


@pytest.mark.parametrize("reason", ["Internal error occurred", "exited with status 134", "?"])
def test_what_may_go_away_is_tried_again_after_a_pause(reason: str) -> None:
    action = decided(attempt("FAILED", reason))
    assert isinstance(action, Wait)
    assert action.choice == FIRST
    assert 30.0 <= action.until - 100.0 <= 60.0


@pytest.mark.parametrize(
    ("last", "outcome", "more", "action"),
    [
        (attempt("RUNNING"), "cancelled", {}, Cancel(1)),
        (attempt("RUNNING"), "cancelled", {"cancel_sent": frozenset({1})}, Watch()),
        (attempt("RUNNING"), "succeeded", {}, Watch()),
        (attempt("RUNNING"), "failed", {"since_outcome": GRACE}, Cancel(1)),
        (attempt("RUNNING"), "limited", {"since_outcome": GRACE}, Cancel(1)),
        (
            attempt("RUNNING"),
            "failed",
            {"since_outcome": GRACE, "cancel_sent": frozenset({1})},
            Watch(),
        ),
        (attempt("SUBMITTING", job=None), "cancelled", {}, Find(1)),
        (attempt("FAILED"), "failed", {}, Done()),
        (attempt("FAILED"), "succeeded", {}, Done()),
        (None, "cancelled", {}, Done()),
    ],
)
def test_the_table_with_an_outcome(
    last: Attempt | None, outcome: str, more: dict[str, Any], action: Action
) -> None:
    assert decided(last, outcome={"state": outcome}, **more) == action


def test_an_attempt_without_machines_is_given_up_for_another() -> None:
    terms = replace(TERMS, resubmit=Resubmit.model_validate({"patience": "10min"}))
    waits = attempt("PENDING", submitted=100.0, ended=None)
    assert decided(waits, 699.0) == decided(waits, 699.0, terms) == Watch()
    why = "resubmit.patience: it has had no machines for 10min"
    assert decided(waits, 700.0, terms) == Leave(1, why)
    assert decided(replace(waits, started=650.0), 900.0, terms) == Watch()
    left = replace(waits, left=why)
    assert decided(left, 701.0, terms) == Cancel(1)
    assert decided(left, 702.0, terms, cancel_sent=frozenset({1})) == Watch()
    over = replace(left, state="CANCELLED", ended=703.0)
    assert decided(over, 703.0, terms) == Submit(2, SECOND)
    assert decided(replace(left, state="SUCCEEDED"), 703.0, terms) == End(
        "succeeded", "the CustomJob succeeded"
    ), "it had its machines after all"


def limited(**limits: Any) -> Terms:
    return replace(TERMS, limits=Limits.model_validate(limits))


def test_a_limit_is_a_request_before_it_is_an_end() -> None:
    terms = limited(time="1h")
    running = attempt("RUNNING", started=0.0, ended=None)
    why = "limits.time: the attempts have run for 1h"
    assert decided(running, 3599.0, terms) == Watch()
    assert decided(running, 3600.0, terms) == Stop(why)
    assert decided(running, 3700.0, terms, stop=why, since_stop=100.0) == Watch()
    late = decided(running, 4200.0, terms, stop=why, since_stop=600.0)
    assert late == End("limited", f"{why}; no checkpoint was saved within 600 s")


def test_what_does_not_run_has_nothing_to_save() -> None:
    terms = limited(deadline="1970-01-01T01:00Z")
    assert decided(attempt("PENDING", ended=None), 3600.0, terms) == End(
        "limited", "limits.deadline: it is 1970-01-01T01:00+00:00"
    )
    saves_nothing = replace(terms, saves=False)
    running = attempt("RUNNING", started=0.0, ended=None)
    assert isinstance(decided(running, 3600.0, saves_nothing), End)


def test_nobody_waits_beyond_the_deadline() -> None:
    terms = limited(deadline="1970-01-01T00:02Z")
    action = decided(attempt("FAILED", "?", ended=119.0), 119.0, terms)
    assert isinstance(action, Wait) and action.until == 120.0


def test_a_run_that_was_asked_to_stop_is_not_sent_again() -> None:
    action = decided(attempt("FAILED", "preempted", step=9), stop="limits.cost: all is spent")
    assert action == End("limited", "limits.cost: all is spent; the last: preempted")


# --- whole runs -----------------------------------------------------------------------


def test_stockout_then_the_next_region() -> None:
    run = PolicyRun(job(), lambda n, c, t: stockout() if n == 1 else ran(2, "SUCCEEDED"))
    assert run.regions == ["us-central1", "us-east4"]
    assert run.times == [0.0, 60.0], "at once"
    assert run.end == End("succeeded", "the CustomJob succeeded")


def test_capacity_that_comes_and_goes_over_six_attempts() -> None:
    fates = [
        stockout(),
        ran(3, reason="preempted", step=100),
        ran(2, reason=STOCKOUT, step=200),
        stockout(),
        ran(1, reason="preempted", step=300),
        ran(4, "SUCCEEDED", step=400),
    ]
    run = PolicyRun(job(), lambda n, c, t: fates[n - 1])
    assert run.end and run.end.state == "succeeded"
    assert run.regions == [
        "us-central1",  # stockout
        "us-east4",  # preempted
        "us-central1",  # the first again, and at once; then it is dry
        "us-east4",  # stockout
        "us-central1",  # the first to have rested
        "us-central1",
    ]


def test_all_regions_are_dry_for_hours() -> None:
    opens = 10 * 3600.0
    run = PolicyRun(job(), lambda n, c, now: ran(1, "SUCCEEDED") if now >= opens else stockout())
    assert run.end and run.end.state == "succeeded"
    assert run.times[-1] - opens < 35 * 60, "no pause is longer than half an hour"
    assert len(run.times) < 80
    assert set(run.regions) == {"us-central1", "us-east4"}


def test_the_same_again_where_there_is_one_region() -> None:
    run = PolicyRun(
        job(regions=["us-central1"]),
        lambda n, c, t: stockout() if n < 5 else ran(1, "SUCCEEDED"),
    )
    assert run.regions == ["us-central1"] * 5
    for earlier, later in zip(run.waits, run.waits[2:], strict=False):
        assert later > earlier, "each pause of two is longer"


def test_other_machines_have_as_many_workers() -> None:
    other = job(fallback=[{"machine": "a2-ultragpu-4g"}], regions=["us-central1"])

    def fate(number: int, choice: Choice, now: float) -> dict[str, Any]:
        if choice.job.pools[0].machine == "a3-highgpu-8g":
            return stockout()
        assert [(p.machine, p.replicas) for p in choice.job.pools] == [
            ("a2-ultragpu-4g", 1),
            ("a2-ultragpu-4g", 7),
        ]
        assert choice.job.slots == other.slots
        return ran(1, "SUCCEEDED")

    assert len(PolicyRun(other, fate).attempts) == 2


def test_on_demand_after_two_hours_and_back_to_spot_when_it_ends() -> None:
    dear = job(fallback=[{"strategy": "standard", "after": "2h"}], regions=["us-central1"])

    def fate(number: int, choice: Choice, now: float) -> dict[str, Any]:
        if choice.job.scheduling.strategy == "standard":
            return ran(6, reason="it ran for longer than its timeout", code=4, step=500)
        return stockout() if now < 4 * 3600 else ran(1, "SUCCEEDED", step=900)

    run = PolicyRun(dear, fate)
    kinds = ["standard" if "standard" in choice else "spot" for choice in run.choices]
    assert kinds[-2:] == ["standard", "spot"]
    assert "standard" not in kinds[:-2]
    assert 7200.0 <= run.times[-2] < 7200.0 + 120
    assert run.times[-1] == run.times[-2] + 6 * 3600


def test_the_budget_is_reached() -> None:
    run = PolicyRun(
        job(limits={"cost": "500 USD"}),
        lambda n, c, t: ran(3, reason="preempted", step=n * 100),
        rate=100.0,
    )
    assert run.end == End("limited", "limits.cost: 500 USD are spent, by estimate")
    assert run.stopped_at == 5 * 3600.0
    assert len(run.attempts) == 2


def test_the_time_that_is_queued_costs_nothing() -> None:
    run = PolicyRun(
        job(limits={"cost": "1 USD"}),
        lambda n, c, t: stockout(36_000.0) if n < 4 else ran(0.005, "SUCCEEDED"),
        rate=100.0,
    )
    assert run.end and run.end.state == "succeeded"


def test_no_more_attempts_than_are_allowed() -> None:
    run = PolicyRun(job(limits={"attempts": 3}), lambda n, c, t: ran(1, reason="preempted", step=n))
    assert run.end == End("limited", "limits.attempts: 3 attempts were made; the last: preempted")
    assert len(run.attempts) == 3


def test_the_deadline_comes_while_it_is_queued() -> None:
    run = PolicyRun(
        job(limits={"deadline": "1970-01-01T05:00Z"}), lambda n, c, t: stockout(9 * 3600.0)
    )
    assert run.end and run.end.state == "limited"
    assert run.now == 5 * 3600.0


@pytest.mark.parametrize(
    "fate",
    [
        ran(0.1, reason="Replica workerpool0-0 exited with status 1", code=3),
        ran(0.1, reason="Replica workerpool0-0 ran out of memory and exited with status 137."),
        refused("permission", 403),
        refused("other", 400),
    ],
)
def test_what_cannot_be_mended_is_tried_exactly_once(fate: dict[str, Any]) -> None:
    run = PolicyRun(job(), lambda n, c, t: fate)
    assert len(run.attempts) == 1
    assert run.end and run.end.state == "failed"


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [("exited with status 134", 3), ("?", 3), ("Internal error occurred", 8), ("preempted", 20)],
)
def test_what_never_gets_anywhere_is_given_up(reason: str, attempts: int) -> None:
    run = PolicyRun(job(), lambda n, c, t: ran(0.1, reason=reason))
    assert len(run.attempts) == attempts
    assert run.end and run.end.state == "failed"
    assert f"{attempts} attempts in a row completed no step" in run.end.reason


def test_a_crash_now_and_then_is_lived_with() -> None:
    run = PolicyRun(
        job(),
        lambda n, c, t: (
            ran(1, "SUCCEEDED") if n == 30 else ran(1, reason="exited with status 139", step=n)
        ),
    )
    assert run.end and run.end.state == "succeeded"
    assert not run.waits, "each has completed steps"


def test_flex_start_that_waits_in_vain() -> None:
    flexible = job(
        scheduling={"strategy": "flex_start", "max_wait_duration": "1h"},
        fallback=[{"strategy": "standard"}],
        regions=["us-central1"],
    )
    run = PolicyRun(
        flexible, lambda n, c, t: ends(3600.0, "EXPIRED") if n == 1 else ran(1, "SUCCEEDED")
    )
    assert [choice.split(", ")[1] for choice in run.choices] == ["flex_start", "standard"]


def test_runs_that_fail_together_do_not_come_back_together() -> None:
    last = attempt("FAILED", "Internal error")
    waits = set()
    for name in ("a", "b", "c", "d"):
        action = decided(last, terms=replace(TERMS, run_id=name))
        assert isinstance(action, Wait)
        waits.add(action.until)
    assert len(waits) == 4


FATES = st.lists(
    st.sampled_from(
        [
            stockout(),
            ran(1, reason="preempted"),
            ran(1, reason="preempted", step=1000),
            ran(1, reason="exited with status 134", step=5),
            ends(5.0, reason="Internal error"),
            refused("quota", 429),
            refused("silent", 0),
            ends(0.0, REFUSED, kind=UNSENT),
            ends(0.0, "EXPIRED"),
        ]
    ),
    max_size=40,
)


@given(FATES)
def test_every_run_ends_and_no_attempt_overlaps_another(fates: list[dict[str, Any]]) -> None:
    run = PolicyRun(
        job(fallback=[{"strategy": "standard", "after": "1h"}]),
        lambda n, c, t: fates[n - 1] if n <= len(fates) else ran(1, "SUCCEEDED"),
    )
    assert run.end and run.end.state in ("succeeded", "failed")
    for earlier, later in zip(run.attempts, run.attempts[1:], strict=False):
        assert earlier.ended is not None and later.created >= earlier.ended
