"""Every second of every VM is on one account: by hand, by property, and on recorded markets."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.market.traces import read_trace
from launcher.status.accounts import ACCOUNTS, Ledger
from launcher.status.history import History
from launcher.status.ledger import QUIET, Timeline, ledger_of
from tests.launcher.status.events import A, B, C, event, first, formed, resumed, steps
from tests.launcher.status.traced import WORK, Traced, vms_of
from trainer.rundir.events import Event

TRACES = Path(__file__).parents[2] / "data" / "traces"
HOUR = 3600.0


def ledger(events: list[Event], now: float | None = None) -> Ledger:
    found = ledger_of(History(events), now)
    assert found is not None
    return found


def told(found: Ledger) -> dict[str, float]:
    return {name: round(took, 6) for name, took in found.seconds.items() if round(took, 6)}


def started(at: float, wanted: int = 2, attempt: int = 1, **more: Any) -> Event:
    fields = {"replicas": wanted, "wanted": wanted, "job": "j", "region": "r", **more}
    return event("attempt_started", at, attempt=attempt, **fields)


def joined(member: str, at: float, age: float, incarnation: str = "a", term: int = 1) -> Event:
    fields = {"slots": 1, "age": age, "incarnation": incarnation, "term": term}
    return event("member_joined", at, member=member, **fields)


def ready(member: str, at: float) -> Event:
    return event("member_ready", at, member=member)


# Two VMs are wanted at 0; they are there at 60 and 70, ready at 90 and 100. Of ten steps of two
# seconds the first has compiled for five more.
BEGINS = [
    started(0.0, usd_per_hour=2.0, on_demand=6.0),
    joined(A, 65.0, 5.0),
    joined(B, 80.0, 10.0),
    ready(A, 90.0),
    ready(B, 100.0),
    formed(1, 101.0, "start", [A, B]),
    resumed(1, 103.0, "start", 0),
    first(1, 110.0, 1, 7.0),
]
ENDS = event("finished", 130.0, state="succeeded", step=10, term=1)


def trained(accounts: dict[str, float] | None = None, count: int = 10) -> Event:
    took = 2.0 * (count - 1)
    return steps(1, 110.0 + took, 1, [1.0] * count, took, accounts=accounts)


def test_a_run_without_troubles_queues_starts_trains_and_ends() -> None:
    found = ledger([*BEGINS, trained(), ENDS])
    assert told(found) == {
        "absent": 60.0 + 70.0,
        "starting": 2 * (103.0 + 5.0) - 130.0,  # until the first step, but for two of its seconds
        "training": 2 * 20.0,
        "stopped": 2 * 2.0,
    }
    assert (found.wanted, found.there) == (2 * 130.0, 2 * 130.0 - 130.0)
    assert found.goodput == 40.0 / 130.0
    assert found.goodput_of_wanted == 40.0 / 260.0


def test_the_end_counts_before_anybody_has_written_the_outcome() -> None:
    assert ledger([*BEGINS, trained(), ENDS], now=500.0) == ledger([*BEGINS, trained(), ENDS])


def test_money_is_that_of_the_vms_that_were_there() -> None:
    found = ledger([*BEGINS, trained(), ENDS])
    assert found.usd is not None and found.spent == pytest.approx(130.0 / HOUR)
    assert found.usd["absent"] == 0.0 and found.usd["training"] == pytest.approx(40.0 / HOUR)
    assert found.goodput_of_usd == pytest.approx(found.goodput)
    # The same training on demand, nothing lost: three times as dear by the hour.
    assert found.on_demand == pytest.approx(3 * 40.0 / HOUR)
    assert found.saving == pytest.approx(1 - 130.0 / 120.0), "it did not pay"


def test_without_a_price_nothing_is_said_of_money() -> None:
    events = [started(0.0), *BEGINS[1:], trained(), ENDS]
    found = ledger(events)
    assert (found.usd, found.spent, found.goodput_of_usd, found.saving) == (None,) * 4
    assert found.goodput == 40.0 / 130.0


def test_what_the_ranks_did_within_steps_is_what_they_say() -> None:
    accounts = {"all": 32.0, "data_wait": 8.0, "communication": 4.0, "waiting": 2.0}
    accounts |= {"evaluation": 1.0, "checkpoint": 1.0}
    found = ledger([*BEGINS, trained(accounts), ENDS])
    part = 40.0 / 32.0
    assert told(found) == {
        "absent": 130.0,
        "starting": 86.0,
        "training": 16.0 * part,
        "data_wait": 8.0 * part,
        "communication": 4.0 * part,
        "waiting": 2.0 * part,
        "evaluation": 1.0 * part,
        "checkpoint": 1.0 * part,
        "stopped": 4.0,
    }


@pytest.mark.parametrize(
    "accounts",
    [
        {"all": 1.0, "waiting": 5.0},
        {"all": -1.0, "waiting": 1.0},
        {"all": 0.0},
        {"waiting": 1.0},
        {"all": "nan", "waiting": "inf"},
        {"all": 2.0, "waiting": -3.0, "sleeping": 9.0},
    ],
)
def test_whatever_a_worker_says_the_ledger_adds_up(accounts: Any) -> None:
    found = ledger([*BEGINS, trained(accounts), ENDS])
    assert all(math.isfinite(took) and took >= 0 for took in found.seconds.values())
    assert found.wanted == pytest.approx(2 * 130.0)


def test_the_last_evaluation_is_one_though_no_step_follows() -> None:
    evaluated = event("evaluated", 129.5, step=10, metrics={"x": 1.0}, seconds=1.5)
    found = ledger([*BEGINS, trained(), evaluated, ENDS])
    assert (found.seconds["evaluation"], found.seconds["stopped"]) == (3.0, 1.0)


@pytest.mark.parametrize("state", ["failed", "cancelled", "limited"])
@pytest.mark.parametrize(("saved", "training"), [([], 0.0), ([4], 16.0), ([8, 4], 16.0)])
def test_what_no_checkpoint_has_is_lost_with_a_run_that_does_not_succeed(
    state: str, saved: list[int], training: float
) -> None:
    """Of [8, 4] the run has gone back behind the checkpoint of step 8."""
    told = [event("checkpoint_committed", 115.0 + at, step=at, seconds=0.1) for at in saved]
    if len(saved) > 1:
        told.append(event("checkpoint_rejected", 125.0, step=8, reason="damaged"))
    events = [*BEGINS, trained(), *told]
    found = ledger([*events, {**ENDS, "state": state}])
    assert (found.seconds["training"], found.seconds["repeated"]) == (training, 40.0 - training)
    assert found.on_demand == pytest.approx(training * 3.0 / HOUR)
    assert ledger([*events, ENDS]).seconds["training"] == 40.0, "of one that succeeds all counts"
    assert ledger(events, now=129.0).seconds["training"] == 40.0, "and while it goes on"


def test_a_checkpoint_of_the_last_step_keeps_all_of_a_run_that_is_cancelled() -> None:
    saved = event("checkpoint_committed", 130.5, step=10, seconds=0.1)
    found = ledger([*BEGINS, trained(), {**ENDS, "state": "cancelled"}, saved])
    assert (found.seconds["training"], found.seconds["repeated"]) == (40.0, 0.0)


def test_what_a_torchrun_script_keeps_itself_nobody_knows() -> None:
    told = [
        event("resumed", 103.0, generation=1, cause="start"),
        steps(1, 110.0, 1, [1.0]),
        steps(1, 128.0, 10, [1.0]),
        {**ENDS, "state": "cancelled"},
    ]
    found = ledger([*BEGINS[:-2], *told])
    assert (found.seconds["training"], found.seconds["repeated"]) == (40.0, 0.0)
    saved = event("checkpoint_committed", 120.0, step=1, seconds=0.1)
    known = ledger([*BEGINS[:-2], *told, saved])
    assert (known.seconds["training"], known.seconds["repeated"]) == (4.0, 36.0)


def test_while_it_goes_on_it_ends_with_the_newest_step_unless_that_is_long_ago() -> None:
    events = [*BEGINS, trained()]
    assert ledger(events, now=129.0).until == 128.0
    late = ledger(events, now=128.0 + QUIET + 10.0)
    assert late.until == 128.0 + QUIET + 10.0
    assert late.seconds["re_forming"] == 2 * (QUIET + 10.0), "somebody will find out"


def test_before_any_vm_is_there_all_is_absent() -> None:
    assert told(ledger(BEGINS[:1], now=500.0)) == {"absent": 1000.0}
    assert ledger_of(History([]), 5.0) is None


NOTICE = [
    event("drain", 128.0, member=B, incarnation="a", reason="notice", term=1),
    event("paused", 128.0, generation=1, cause="drain", step=10, term=1),
]


def test_too_few_machines_stop_those_that_are_there() -> None:
    waits = [
        *NOTICE,
        event("waiting", 130.0, slots=1, min_workers=2, term=1),
        joined(C, 160.0, 10.0),
        ready(C, 180.0),
        formed(2, 181.0, "drain", [A, C]),
        resumed(2, 183.0, "drain", 10, seconds=55.0),
        first(2, 187.0, 11, 4.0),
        steps(2, 197.0, 11, [1.0] * 6, 10.0),
        event("finished", 197.0, state="succeeded", step=16, term=1),
    ]
    found = ledger([*BEGINS, trained(), *waits])
    assert told(found) == {
        "absent": 130.0,  # B is there until the next world forms, so more are than are wanted
        "starting": 86.0 + 30.0,
        "training": 40.0 + 24.0,
        # A and B until the leader says so; both newcomers' first step.
        "re_forming": 2 * 2.0 + 2 * 2.0 + 2 * 2.0,
        "stopped": 2 * 51.0 + 1.0,
    }
    assert found.wanted == 2 * 197.0 + 31.0


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_leader_whose_clock_is_wrong_moves_nothing(hours: int) -> None:
    """It follows one that is lost with its VM; the workers of the other know how long it took."""
    ahead = HOUR * hours
    after = [
        joined(A, 133.0 + ahead, 73.0, term=2),
        event("loss", 134.0 + ahead, member=B, incarnation="a", term=2, gone=True),
        {**formed(2, 135.0 + ahead, "loss", [A]), "term": 2},
        resumed(2, 136.0 + ahead, "loss", 10, seconds=8.0, term=2),
        first(2, 142.0 + ahead, 11, 6.0),
        steps(2, 158.0 + ahead, 11, [1.0] * 5, 16.0),
        event("finished", 159.0 + ahead, state="succeeded", step=15, term=2),
    ]
    found = ledger([*BEGINS, trained(), *after])
    assert told(found) == {
        "absent": 130.0 + 31.0,
        "starting": 86.0,
        "training": 40.0 + 20.0,
        "re_forming": 8.0 + 2.0,
        "stopped": 1.0,
    }


def test_a_newcomer_that_waits_to_be_let_in_does_not_train() -> None:
    grown = [
        joined(C, 115.0, 5.0),
        ready(C, 120.0),
        event("paused", 128.0, generation=1, cause="grow", step=10, term=1),
        formed(2, 129.0, "grow", [A, B, C]),
        resumed(2, 130.0, "grow", 10, seconds=2.0),
        first(2, 131.0, 11, 1.0),
        steps(2, 135.0, 11, [1.0] * 5, 4.0),
        event("finished", 135.0, state="succeeded", step=15, term=1),
    ]
    events = [started(0.0, wanted=3), *BEGINS[1:], trained(), *grown]
    assert told(ledger(events)) == {
        "absent": 60.0 + 70.0 + 110.0,
        "starting": 86.0 + 10.0,
        "training": 40.0 + 15.0,
        "re_forming": 8.0 + 3 * 2.0,
    }


def test_an_agent_that_begins_anew_in_its_process_was_there_before() -> None:
    """It was given up because it was silent, and comes back: its process is as old as it was."""
    again = [
        event("loss", 133.0, member=B, incarnation="a", term=1, gone=True),
        formed(2, 134.0, "loss", [A]),
        resumed(2, 135.0, "loss", 10, seconds=7.0),
        first(2, 139.0, 11, 4.0),
        joined(B, 140.0, 70.0, "b"),
        ready(B, 143.0),
        steps(2, 151.0, 11, [1.0] * 4, 12.0),
        event("finished", 151.0, state="succeeded", step=14, term=1),
    ]
    assert told(ledger([*BEGINS, trained(), *again])) == {
        "absent": 130.0 + 12.0,  # B, from its last step until it comes back
        "starting": 86.0 + 3.0,
        "training": 40.0 + 16.0,
        "re_forming": 7.0 + 8.0,
    }


def test_the_time_between_two_attempts_is_absence_and_prices_are_their_own() -> None:
    over = event("attempt_ended", 128.0, attempt=1, state="FAILED", verdict="stockout")
    again = [
        started(200.0, attempt=2, usd_per_hour=7.2, on_demand=7.2),
        joined(A, 300.0, 10.0, "b", term=2),
        joined(B, 300.0, 10.0, "b", term=2),
        ready(A, 320.0),
        ready(B, 320.0),
        {**formed(2, 320.0, "leader", [A, B]), "term": 2},
        resumed(2, 320.0, "leader", 5, term=2),
        first(2, 322.0, 6, 2.0),
        steps(2, 332.0, 6, [1.0] * 6, 10.0),
        event("finished", 332.0, state="succeeded", step=11, term=2),
    ]
    found = ledger([*BEGINS, trained(), over, *again])
    assert told(found) == {
        "absent": 130.0 + 2 * (290.0 - 128.0),
        "starting": 86.0 + 2 * 30.0,
        "training": 2 * 10.0 + 2 * 12.0,
        "repeated": 2 * 10.0,
    }
    assert found.spent == pytest.approx(126.0 / HOUR + 2 * 42.0 * 0.001)
    assert found.on_demand == pytest.approx(20.0 * 3.0 / HOUR + 24.0 * 0.001)


# --- whatever happens -------------------------------------------------------------


@given(st.integers(0, 2**31), st.floats(200.0, 2000.0), st.lists(st.floats(0.0, 1.0), max_size=4))
def test_parts_of_a_run_add_up_to_all_of_it(seed: int, end: float, cuts: list[float]) -> None:
    counts = [(0.0, 3), (150.0, seed % 5), (400.0, 4), (900.0, seed % 7), (1000.0, 2)]
    traced = Traced(vms_of(counts, end, seed), end).run()
    timeline = Timeline.of(History(one for _, one in traced.events), 1e6 + end)
    assert timeline is not None
    whole = timeline.between(timeline.start, timeline.end)
    span = timeline.end - timeline.start
    assert sum(whole.seconds.values()) == pytest.approx(64 * span), "so many are wanted"
    assert all(took >= 0 for took in whole.seconds.values())
    edges = sorted([0.0, *cuts, 1.0])
    parts = [
        timeline.between(timeline.start + low * span, timeline.start + high * span)
        for low, high in pairwise(edges)
    ]
    for name in ACCOUNTS:
        both = sum(part.seconds[name] for part in parts)
        assert both == pytest.approx(whole.seconds[name], rel=1e-6, abs=1e-3), name


@pytest.mark.parametrize("trace", sorted(path.name for path in TRACES.glob("*.txt")))
def test_goodput_on_a_recorded_market_is_work_done_by_work_that_could_be(trace: str) -> None:
    """Computed from which VM lived when, whatever the clocks of VMs say."""
    samples = read_trace(TRACES / trace)
    end = min(samples[-1][0], 27 * HOUR)
    traced = Traced(vms_of([(at, count) for at, count in samples], end, seed=7), end).run()
    honest = traced.steps * WORK / traced.alive
    events = [one for _, one in traced.events]
    found = ledger(events, now=1e6 + end)
    # Whoever reads it later has the events in the order of the times that they say.
    assert ledger(sorted(events, key=lambda one: float(one["time"])), now=1e6 + end) == found
    assert found.goodput == pytest.approx(honest, rel=0.01)
    assert found.wanted == pytest.approx(64 * end, rel=0.005)
    assert found.there == pytest.approx(traced.alive, rel=0.005)
    without_pauses = 1 - traced.paused / (end - traced.began)
    assert without_pauses > honest, "what goodput was before there was a ledger"


@pytest.mark.parametrize("count", [1, 3, 50])
def test_equal_parts_of_a_run_add_up_to_all_of_it(count: int) -> None:
    history = History([*BEGINS, trained({"all": 32.0, "data_wait": 8.0}), ENDS])
    timeline = Timeline.of(history, None)
    assert timeline is not None
    whole, parts = timeline.between(timeline.start, timeline.end), timeline.parts(count)
    assert len(parts) == count
    assert (parts[0].since, parts[-1].until) == (whole.since, whole.until)
    for name in ACCOUNTS:
        assert sum(one.seconds[name] for one in parts) == pytest.approx(whole.seconds[name])
    assert sum(one.spent or 0.0 for one in parts) == pytest.approx(whole.spent)
    assert sum(one.on_demand or 0.0 for one in parts) == pytest.approx(whole.on_demand)
