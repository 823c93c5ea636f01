"""The figures of a fleet, computed by hand: what is lost, what it took, what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from launcher.status.history import History
from launcher.status.status import Outcome, build_status
from tests.launcher.status.events import event, first, resumed, steps
from trainer.rundir.events import Event

A1, A2, B1, B2, C1, C2 = (
    f"{job}/workerpool{pool}-0" for job in (1, 2, 3) for pool in (0, 1)
)  # three jobs of two VMs


def joined(member: str, at: float, term: int = 1) -> Event:
    return event("member_joined", at, member=member, slots=1, incarnation="x", term=term)


def lost(member: str, at: float, term: int = 1) -> Event:
    return event("loss", at, member=member, reason="silent", incarnation="x", term=term, gone=True)


def formed(number: int, at: float, cause: str, members: list[str], term: int = 1) -> Event:
    told = {"generation": number, "world_size": len(members), "cause": cause, "members": members}
    return event("generation_formed", at, term=term, **told)


def attempt(number: int, state: str, started: float, ended: float | None, usd: float) -> Any:
    return {
        "attempt": number,
        "region": "us-central1",
        "choice": "x",
        "job": f"job-{number}",
        "state": state,
        "reason": "Resources are insufficient" if state == "FAILED" else "",
        "started": started,
        "ended": ended,
        "usd_per_hour": usd,
    }


# Steps take a second each. Job 2 fails when its second VM vanishes, at 1800 s; its replacement,
# job 3, is there at 2400 s. Job 1 is an anchor. At 3600 s somebody looks.
BEGIN = [
    *(joined(member, 1.0) for member in (A1, A2, B1, B2)),
    formed(1, 10.0, "start", [A1, A2, B1, B2]),
    resumed(1, 11.0, "start", 0),
    first(1, 12.0, 1, 1.0),
    steps(1, 1795.0, 1, [1.0] * 1784, 1783.0),  # since the first, which is no part of it
]
SEEN = [
    lost(B2, 1797.0),
    event("paused", 1797.0, generation=1, cause="loss", step=1784),
    lost(B1, 1799.0),
    event("attempt_ended", 1800.0, attempt=2, state="FAILED", verdict="stockout"),
    formed(2, 1798.0, "loss", [A1, A2]),
    resumed(2, 1799.0, "loss", 1784, lost_steps=0, seconds=4.0),
    first(2, 1800.0, 1785, 1.0),
    steps(2, 2409.0, 1785, [1.0] * 610, 609.0),
]
GROWN = [
    event("attempt_started", 2300.0, attempt=3, job="job-3", region="us-central1"),
    joined(C1, 2400.0),
    joined(C2, 2401.0),
    event("paused", 2409.0, generation=2, cause="grow", step=2394),
    formed(3, 2409.5, "grow", [A1, A2, C1, C2]),
    resumed(3, 2410.0, "grow", 2394, lost_steps=0, seconds=1.0),
    first(3, 2411.0, 2395, 1.0),
    steps(3, 3600.0, 2395, [1.0] * 1190, 1189.0),
]
ATTEMPTS = [
    attempt(1, "RUNNING", 0.0, None, 7.34),
    attempt(2, "FAILED", 0.0, 1800.0, 2.0),
    attempt(3, "RUNNING", 2400.0, None, 2.0),
]


def status(*events: Event, attempts: list[Any] = ATTEMPTS, **more: Any) -> dict[str, Any]:
    return build_status("one", History(events), attempts, None, now=3600.0, **more)


def test_every_figure_of_a_fleet_that_lost_a_job_and_got_another() -> None:
    known = status(*BEGIN, *SEEN, *GROWN)
    assert known["step"] == 1784 + 610 + 1190
    assert (known["steps_lost"], known["drains"]) == (0, 0)
    assert known["losses"] == 2, "both VMs of job 2, the one that vanished and the one with it"
    assert [(it["cause"], it["seconds"]) for it in known["pauses"]] == [
        ("loss", 5.0),
        ("grow", 2.0),
    ]
    seconds = known["ledger"]["seconds"]
    assert seconds["training"] == 4 * 1784.0 + 2 * 610.0 + 4 * 1190.0
    # A1 and A2 are there all the time; B2 until its last step, B1 until it is missed.
    there = 2 * 3599.0 + 1794.0 + 1798.0 + 1200.0 + 1199.0
    assert known["goodput"] == pytest.approx(seconds["training"] / there, abs=1e-4)
    assert sum(seconds.values()) == pytest.approx(4 * 3599.0), "four VMs are wanted"


def test_what_it_cost_is_the_sum_over_jobs_and_how_long_it_took_is_not() -> None:
    spent = status(*BEGIN, *SEEN, *GROWN)["spent"]
    assert spent["usd"] == round(7.34 * 1.0 + 2.0 * 0.5 + 2.0 / 3, 2)
    assert spent["seconds"] == 3600.0, "one hour, though two jobs ran in most of it"
    assert spent["attempts"] == 3


def test_it_runs_and_nothing_is_wrong_though_a_job_has_failed() -> None:
    known = status(*BEGIN, *SEEN)
    assert (known["state"], known["reason"]) == ("running", None)
    over = [*ATTEMPTS[1:2], attempt(1, "FAILED", 0.0, 3000.0, 7.34)]
    known = status(*BEGIN, *SEEN, attempts=over)
    assert (known["state"], known["reason"]) == ("queued", "Resources are insufficient")


def test_a_job_that_is_lost_with_the_leader_counts_as_much() -> None:
    """Nobody says so: the next leader, of job 1, forms a world without them."""
    taken_over = [
        event("leader_changed", 1798.0, term=2, member=A1, address="x"),
        joined(A1, 1798.1, term=2),
        joined(A2, 1798.2, term=2),
        event("attempt_ended", 1800.0, attempt=2, state="FAILED", verdict="stockout"),
        formed(2, 1801.0, "loss", [A1, A2], term=2),
        resumed(2, 1802.0, "loss", 1784, lost_steps=0, seconds=7.0),
    ]
    assert status(*BEGIN, *taken_over)["losses"] == 2


@pytest.mark.parametrize("hours", [-1, 0, 1], ids=lambda hours: f"{hours} h")
def test_clocks_that_differ_between_jobs_count_nobody_twice(hours: int) -> None:
    """Job 2 had the leader until it was lost; its VMs' clocks are an hour off."""
    off = [{**it, "time": it["time"] + 3600.0 * hours} for it in BEGIN]
    taken_over = [
        joined(A1, 1798.1, term=2),
        joined(A2, 1798.2, term=2),
        lost(B1, 1799.0, term=2),
        event("attempt_ended", 1800.0, attempt=2, state="FAILED", verdict="stockout"),
        formed(2, 1801.0, "loss", [A1, A2], term=2),
    ]
    assert status(*off, *taken_over)["losses"] == 2


@dataclass(frozen=True)
class Way:
    """How a job that was given up goes."""

    events: tuple[Event, ...]


@pytest.mark.parametrize(
    "way",
    [
        Way((event("drain", 500.0, member=C1, reason="SIGTERM", incarnation="x"),)),
        Way((lost(C1, 500.0),)),
        Way(()),
    ],
    ids=["with notice", "without", "unseen"],
)
def test_what_becomes_of_a_job_that_was_given_up_is_no_loss_of_the_run(way: Way) -> None:
    given_up = [
        joined(C1, 300.0),
        event("unreachable", 301.0, member=C1, peer=A1, reason="no way"),
        event("attempt_left", 400.0, attempt=3, reason="no way"),
        *way.events,
        event("attempt_ended", 510.0, attempt=3, state="CANCELLED", verdict="unreachable"),
        formed(2, 600.0, "loss", [A1, A2], term=2),
    ]
    known = status(*BEGIN, *given_up, joined(A1, 599.0, 2), joined(A2, 599.0, 2))
    assert known["drains"] == 0
    assert known["losses"] == 2, "those of job 2, whom the second leader misses"


def test_a_job_that_is_replaced_is_neither_drained_nor_lost() -> None:
    replaced = [
        event("drain", 500.0, member=B1, reason="not wanted any more", incarnation="x"),
        event("drain", 500.0, member=B2, reason="not wanted any more", incarnation="x"),
        formed(2, 501.0, "drain", [A1, A2]),
        event("attempt_replaced", 502.0, attempt=2, reason="it is not wanted any more"),
        event("attempt_ended", 510.0, attempt=2, state="CANCELLED", verdict="replaced"),
    ]
    known = status(*BEGIN, *replaced)
    assert (known["drains"], known["losses"]) == (0, 0)


def test_who_is_in_the_world_and_whether_it_trains() -> None:
    history = History([joined(A1, 1.0)])
    assert (history.inside, history.trains) == ({}, False)
    for one in BEGIN:
        history.add(one)
    assert (history.inside, history.trains) == ({1: 2, 2: 2}, True)
    history.add(formed(2, 20.0, "grow", [A1, A2, B1, B2, C1]))
    assert (history.inside, history.trains) == ({1: 2, 2: 2, 3: 1}, False), "it still forms"
    history.add(resumed(2, 21.0, "grow", 9))
    assert history.trains


def test_the_end_of_a_fleet_is_no_loss_either() -> None:
    """All jobs end with their run, each in its own time."""
    end = [
        event("finished", 3601.0, state="succeeded", step=3584),
        *(lost(member, 3602.0) for member in (C1, C2)),
        event("drain", 3603.0, member=A2, reason="SIGTERM", incarnation="x"),
        event("attempt_ended", 3604.0, attempt=3, state="CANCELLED", verdict="cancelled"),
    ]
    history = History([*BEGIN, *SEEN, *GROWN, *end])
    outcome = Outcome("succeeded", "", {})
    over, later = (
        build_status("one", history, ATTEMPTS, outcome, now=now, ended=3601.0)
        for now in (3605.0, 9999.0)
    )
    assert over["spent"] == later["spent"], "whoever saw its jobs end or did not"
    assert (over["losses"], over["drains"]) == (2, 0)
    assert over["goodput"] == pytest.approx(13116.0 / (13189.0 + 4.0), abs=1e-4)
