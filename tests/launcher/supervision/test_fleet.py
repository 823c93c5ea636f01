"""The policy over several attempts at a time: a fleet."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.supervision.attempt import UNSENT, Attempt
from launcher.supervision.choices import Choice, choices_of, rounds
from launcher.supervision.fleet import BURST, MINUTE, Fleet, Lack, lack
from launcher.supervision.policy import End, Find, Leave, Situation, Submit, Terms, Watch, decide
from launcher.supervision.verdict import verdict_of
from tests.examples import examples
from tests.launcher.supervision.fleet_run import (
    HOUR,
    ON_DEMAND,
    POLL,
    FleetRun,
    Life,
    apart,
    cancelled,
    dry,
    fails,
    preempted,
    stays,
)
from tests.launcher.supervision.policy_run import job
from trainer.rundir.attempts import REFUSED

ONE_REGION = job(regions=["us-central1"])
[ONE_WAY] = choices_of(ONE_REGION, "local")


def alive_attempt(number: int, **more: object) -> Attempt:
    fields = {"region": "us-central1", "job": f"job-{number}", "state": "RUNNING", **more}
    return Attempt(number, **fields)  # type: ignore[arg-type]


# --- how many -------------------------------------------------------------------------


def test_all_that_are_wanted_are_sent_at_once() -> None:
    run = FleetRun(ONE_REGION, Fleet(4), lambda n, c, t: stays()).play(HOUR)
    assert [at for at, _ in run.sent] == [0.0] * 4
    assert len(run.alive) == run.most_alive == 4


def test_one_that_is_gone_is_replaced_while_the_others_train() -> None:
    run = FleetRun(ONE_REGION, Fleet(4), lambda n, c, t: preempted(600.0) if n == 2 else stays())
    run.play(HOUR)
    assert [at for at, _ in run.sent] == [0.0] * 4 + [600.0]
    assert run.most_alive == 4 and run.end is None


def test_nothing_is_sent_for_a_job_that_vertex_tries_again_by_itself() -> None:
    run = FleetRun(ONE_REGION, Fleet(2), lambda n, c, t: stays()).play(HOUR)
    run.attempts[2] = replace(run.attempts[2], state="PENDING")  # after it was RUNNING
    assert run.play(3 * HOUR).decide() == [Watch()]
    assert len(run.sent) == 2


def test_what_is_not_known_to_be_sent_keeps_nobody_from_going_on() -> None:
    attempts = (alive_attempt(1, job=None, state="SUBMITTING"), alive_attempt(2))
    terms = Terms("r", (ONE_WAY,), 0.0, fleet=Fleet(3), stop_grace=600.0)
    first, second = decide(terms, Situation(attempts), 10.0)
    assert first == Find(1)
    assert isinstance(second, Submit) and second.attempt == 3


def test_a_job_that_somebody_cancelled_is_not_replaced() -> None:
    run = FleetRun(ONE_REGION, Fleet(3), lambda n, c, t: cancelled(600.0) if n == 1 else stays())
    run.play(HOUR)
    assert len(run.sent) == 3 and len(run.alive) == 2 and run.end is None


def test_when_somebody_has_cancelled_all_of_them_the_run_is_cancelled() -> None:
    run = FleetRun(ONE_REGION, Fleet(3), lambda n, c, t: cancelled(600.0 * n)).play(HOUR)
    assert run.end == End("cancelled", "the CustomJob was cancelled")
    assert len(run.sent) == 3


def test_more_than_vertex_takes_in_a_minute_are_sent_one_minute_later() -> None:
    run = FleetRun(ONE_REGION, Fleet(64), lambda n, c, t: stays()).play(HOUR)
    assert len(run.alive) == 64
    assert Counter(at for at, _ in run.sent) == {0.0: BURST, 60.0: BURST, 120.0: 64 - 2 * BURST}


# --- anchors --------------------------------------------------------------------------


def test_anchors_are_taken_first_and_kept() -> None:
    fleet = Fleet(3, anchor=1, anchors=ON_DEMAND)

    def life(number: int, choice: Choice, now: float) -> Life:
        on_demand = choice.job.scheduling.strategy == "standard"
        return preempted(1200.0) if on_demand and now < 600 else stays()

    run = FleetRun(ONE_REGION, fleet, life).play(HOUR)
    kinds = [attempt.choice.split(", ")[1] for attempt in run.attempts.values()]
    assert kinds == ["standard", "spot", "spot", "standard"]


def test_where_there_is_no_anchor_the_others_go_on_without() -> None:
    fleet = Fleet(2, anchor=1, anchors=ON_DEMAND)

    def life(number: int, choice: Choice, now: float) -> Life:
        return dry() if choice.job.scheduling.strategy == "standard" else stays()

    run = FleetRun(ONE_REGION, fleet, life).play(600.0)
    assert [it.choice.split(", ")[1] for it in run.alive if it.started is not None] == ["spot"]
    assert run.end is None


def test_what_is_lacking_by_kind() -> None:
    fleet = Fleet(4, anchor=2, anchors=ON_DEMAND)
    anchor = alive_attempt(1, choice=ON_DEMAND[0].name)
    assert lack(fleet, (ONE_WAY,), []) == Lack(2, 2)
    assert lack(fleet, (ONE_WAY,), [anchor, alive_attempt(2)]) == Lack(1, 1)
    assert lack(fleet, (ONE_WAY,), [alive_attempt(n) for n in (1, 2, 3)]) == Lack(1, 0)
    assert lack(fleet, (ONE_WAY,), [alive_attempt(n) for n in (1, 2, 3, 4)]) == Lack(0, 0)


def test_the_workers_of_all_jobs_count_for_anchors_and_fallbacks_too() -> None:
    wide = job(
        fleet={"jobs": 4, "anchor": 1},
        elastic={"min_workers": 80},  # of 128; one job has 32
        fallback=[{"strategy": "standard", "after": "1h"}, {"machine": "a2-ultragpu-4g"}],
    )
    ways = [choice.name for choice in choices_of(wide, "local") if choice.region == "us-east4"]
    assert ways == [
        "4 x a3-highgpu-8g, spot, us-east4",
        "4 x a3-highgpu-8g, standard, us-east4",
        "8 x a2-ultragpu-4g, spot, us-east4",
    ], "each as large as one of the jobs"
    anchors = choices_of(wide.anchors(), "local")
    assert {choice.name.split(", ")[1] for choice in anchors} == {"standard"}


# --- regions --------------------------------------------------------------------------


def test_a_fleet_stays_together_where_it_has_machines() -> None:
    run = FleetRun(job(), Fleet(3), lambda n, c, t: stays() if n == 1 else dry()).play(HOUR)
    assert {region for _, region in run.sent} == {"us-central1"}
    assert len(run.sent) < 40, "the region rests in between"


def test_a_fleet_without_machines_moves_on_together() -> None:
    run = FleetRun(
        job(), Fleet(3), lambda n, c, t: dry() if c.region == "us-central1" else stays()
    ).play(HOUR)
    assert [region for _, region in run.sent] == ["us-central1"] * 3 + ["us-east4"] * 3
    assert len(run.alive) == 3


def test_one_that_waits_holds_nobody_and_is_given_up_when_the_others_train_elsewhere() -> None:
    fates = {1: dry(60.0), 2: dry(HOUR), 3: stays()}
    run = FleetRun(job(), Fleet(2), lambda n, c, t: fates.get(n, stays())).play(HOUR)
    assert run.sent[:3] == [(0.0, "us-central1")] * 2 + [(60.0, "us-east4")]
    assert run.attempts[2].left == "the run's other jobs train in us-east4"
    assert verdict_of(run.attempts[2]) == "expired"
    assert [(it.attempt, it.region) for it in run.alive] == [(3, "us-east4"), (4, "us-east4")]


def test_fewer_workers_than_can_train_hold_nobody() -> None:
    wide = job(fleet=3, elastic={"min_workers": 64})  # of 96; a job has 32
    fates = {1: stays(), 2: dry(60.0), 3: dry(120.0)}
    run = FleetRun(wide, Fleet(3), lambda n, c, t: fates.get(n, stays())).play(HOUR)
    there = ["us-central1"] * 3 + ["us-east4"] * 3
    assert [region for _, region in run.sent] == there, "the last one in place of the first"
    assert run.attempts[1].left and {it.region for it in run.alive} == {"us-east4"}


def test_of_two_regions_that_have_machines_at_the_same_time_the_first_is_kept() -> None:
    first = alive_attempt(1, region="us-east4", started=50.0)
    later = [alive_attempt(n, started=60.0, submitted=0.0) for n in (2, 3)]
    terms = Terms("r", tuple(choices_of(job(), "local")), 0.0, fleet=Fleet(3), stop_grace=600.0)
    why = "the run's other jobs train in us-east4"
    assert decide(terms, Situation((first, *later)), 60.0) == [Leave(2, why), Leave(3, why)]
    across = replace(terms, fleet=Fleet(3, across_regions=True))
    assert decide(across, Situation((first, *later)), 60.0) == [Watch()]


def test_across_regions_each_goes_where_there_are_machines() -> None:
    fleet = Fleet(3, across_regions=True)
    run = FleetRun(
        job(), fleet, lambda n, c, t: stays() if n == 1 or c.region == "us-east4" else dry()
    ).play(HOUR)
    assert Counter(it.region for it in run.alive) == {"us-central1": 1, "us-east4": 2}


def test_a_fallback_is_for_what_has_been_lacking_for_so_long() -> None:
    dear = job(fallback=[{"strategy": "standard", "after": "1h"}], regions=["us-central1"])

    def life(number: int, choice: Choice, now: float) -> Life:
        return stays() if number == 1 or choice.job.scheduling.strategy == "standard" else dry()

    run = FleetRun(dear, Fleet(2), life).play(2 * HOUR)
    second = run.alive[1]
    assert second.choice.split(", ")[1] == "standard"
    assert HOUR <= second.created <= HOUR + 60, "though the first has run all the time"


# --- failures -------------------------------------------------------------------------


def test_those_that_find_no_machines_together_are_one_failure() -> None:
    eight = FleetRun(ONE_REGION, Fleet(8), lambda n, c, t: dry())
    one = FleetRun(ONE_REGION, Fleet(1), lambda n, c, t: dry())
    eight.play(600.0), one.play(600.0)
    assert 0 < len({at for at, _ in eight.sent}) - len({at for at, _ in one.sent}) + 1 <= 2
    assert len(rounds(eight.attempts.values())) == len({at for at, _ in eight.sent})


def test_those_that_crash_together_are_one_failure() -> None:
    run = FleetRun(ONE_REGION, Fleet(8), lambda n, c, t: fails("exited with status 134"))
    run.play(24 * HOUR)
    assert run.end and "3 attempts in a row completed no step" in run.end.reason
    assert len(run.sent) == 24


def test_a_job_that_keeps_crashing_beside_others_is_tried_ever_more_rarely() -> None:
    run = FleetRun(
        ONE_REGION,
        Fleet(2),
        lambda n, c, t: stays() if n == 1 else fails("exited with status 134"),
    ).play(24 * HOUR)
    assert run.end is None, "the others train"
    times = [at for at, _ in run.sent]
    assert times[-1] - times[-2] >= 15 * 60 and len(times) < 100


@pytest.mark.parametrize("reason", ["exited with status 1", "out of memory"])
def test_a_users_error_in_one_job_ends_neither_the_run_nor_is_it_tried_again(reason: str) -> None:
    run = FleetRun(job(), Fleet(3), lambda n, c, t: fails(reason) if n == 2 else stays())
    run.play(24 * HOUR)
    assert run.end is None and len(run.sent) == 3 and len(run.alive) == 2


def test_a_users_error_is_the_end_when_nothing_is_left_to_try() -> None:
    attempts = (
        alive_attempt(1, choice=ONE_WAY.name, state="FAILED", reason="out of memory", ended=60.0),
        alive_attempt(2, choice=ONE_WAY.name, state=REFUSED, kind=UNSENT, ended=90.0),
    )
    terms = Terms("r", (ONE_WAY,), 0.0, fleet=Fleet(2), stop_grace=600.0)
    assert decide(terms, Situation(attempts), 100.0) == [End("failed", "out of memory")]


def test_what_others_train_with_is_tried_again_when_they_are_gone() -> None:
    def life(number: int, choice: Choice, now: float) -> Life:
        broken = number == 1
        return fails("exited with status 1", 60.0) if broken else preempted(600.0 * number)

    run = FleetRun(ONE_REGION, Fleet(2), life).play(2000.0)
    assert [at for at, _ in run.sent] == [0.0, 0.0, 1200.0, 1200.0]


def test_all_that_fail_with_the_users_error_end_the_run() -> None:
    run = FleetRun(job(), Fleet(4), lambda n, c, t: fails("exited with status 1")).play(HOUR)
    assert run.end == End("failed", "exited with status 1")
    assert len(run.sent) == 4


# --- jobs that do not reach each other ------------------------------------------------


def test_a_job_that_the_others_do_not_reach_is_given_up_after_a_time_and_no_more_are_sent() -> None:
    run = FleetRun(ONE_REGION, Fleet(3), lambda n, c, t: apart() if n == 2 else stays())
    run.play(24 * HOUR)
    assert [at for at, _ in run.sent] == [0.0] * 3 and run.end is None
    given_up = run.attempts[2]
    assert given_up.left == "no way [SW5011]" and verdict_of(given_up) == "unreachable"
    assert run.terms.apart <= (given_up.ended or 0.0) <= run.terms.apart + POLL


def test_another_choice_is_tried_instead() -> None:
    fleet = Fleet(2, across_regions=True)
    run = FleetRun(job(), fleet, lambda n, c, t: apart() if n == 2 else stays()).play(24 * HOUR)
    assert [region for _, region in run.sent] == ["us-central1"] * 2 + ["us-east4"]
    assert len(run.alive) == 2


def test_when_the_others_are_gone_it_may_be_sent_where_they_did_not_reach_it() -> None:
    def life(number: int, choice: Choice, now: float) -> Life:
        return {1: preempted(4000.0), 2: apart()}.get(number, stays())

    run = FleetRun(ONE_REGION, Fleet(2), life).play(4 * HOUR)
    assert len(run.alive) == 1 and run.end is None
    alone = [at for at, _ in run.sent]
    assert alone == [0.0, 0.0, 4000.0], "one, when the first is gone, and none beside it"


def test_jobs_that_are_all_apart_from_one_that_is_gone_are_kept() -> None:
    """Who would train instead, if they were given up?"""
    run = FleetRun(ONE_REGION, Fleet(2), lambda n, c, t: preempted(60.0) if n == 1 else apart())
    run.play(60.0)
    situation = Situation(tuple(run.attempts.values()), unreached={2: ("no way", 9999.0)})
    assert not any(isinstance(it, Leave) for it in decide(run.terms, situation, 60.0))


# --- limits ---------------------------------------------------------------------------


def test_no_more_attempts_than_are_allowed_and_those_that_live_go_on() -> None:
    limited = job(regions=["us-central1"], limits={"attempts": 5})
    run = FleetRun(limited, Fleet(3), lambda n, c, t: preempted(600.0) if n < 4 else stays())
    run.play(24 * HOUR)
    assert len(run.sent) == 5 and len(run.alive) == 2 and run.end is None


def test_time_counts_once_however_many_run() -> None:
    limited = job(regions=["us-central1"], limits={"time": "2h"})
    run = FleetRun(limited, Fleet(4), lambda n, c, t: stays()).play(24 * HOUR)
    assert run.stopped == "limits.time: the attempts have run for 2h"
    assert run.now >= 2 * HOUR and run.attempts[1].started == 0.0


# --- any history ----------------------------------------------------------------------

LIVES = st.one_of(
    st.builds(preempted, st.floats(1.0, 7200.0)),
    st.builds(dry, st.floats(0.0, 1200.0)),
    st.sampled_from(["exited with status 134", "Internal error", "?"]).map(fails),
    st.builds(
        lambda machines, more: Life(machines, machines + more),
        st.floats(0.0, 3600.0),
        st.floats(0.0, 7200.0),
    ),
)


@example(  # the second gets its machines in one region when others train in the other
    lives=[dry(60.0), Life(1800.0, 7000.0), dry(60.0), preempted(7000.0), preempted(3000.0)],
    jobs=3,
    anchor=0,
    across=False,
    patience=None,
)
@settings(max_examples=examples(60))
@given(
    lives=st.lists(LIVES | st.just(apart()), max_size=40),
    jobs=st.integers(1, 8),
    anchor=st.integers(0, 2),
    across=st.booleans(),
    patience=st.sampled_from([None, "20min"]),
)
def test_any_history_converges_on_what_is_wanted(
    lives: list[Life], jobs: int, anchor: int, across: bool, patience: str | None
) -> None:
    anchor = min(anchor, jobs)
    anchors = tuple(choices_of(job(scheduling="standard"), "local"))
    fleet = Fleet(jobs, anchor, anchors, across)
    regions: list[set[str]] = []

    def life(number: int, choice: Choice, now: float) -> Life:
        training = (it for it in run.alive if it.state == "RUNNING" and not it.left)
        regions.append({it.region for it in training} | {choice.region})
        return lives[number - 1] if number <= len(lives) else stays()

    run = FleetRun(job(resubmit={"patience": patience}), fleet, life)
    run.play(4 * 24 * HOUR)
    assert run.most_alive <= jobs
    sent = sorted(at for at, _ in run.sent)
    assert all(b - a > MINUTE - 1e-6 for a, b in zip(sent, sent[BURST:], strict=False))
    assert across or all(len(there) == 1 for there in regions)
    if run.end is not None:
        assert run.end.state == "failed" and not run.alive, "only what never gets anywhere"
        return
    lost = {it.choice for it in run.attempts.values() if verdict_of(it) == "unreachable"}
    assert run.alive and (len(run.alive) == jobs or lost)
    assert across or len({it.region for it in run.alive}) == 1
    if lost:  # the fleet may be smaller by what there is no way to
        return
    named = {choice.name for choice in anchors}
    assert sum(it.choice in named for it in run.alive) == anchor


@settings(max_examples=examples(60))
@given(
    lives=st.lists(LIVES, max_size=20),
    limits=st.sampled_from(
        [{"attempts": 9}, {"time": "1h"}, {"deadline": "1970-01-01T05:00Z"}, {"attempts": 12}]
    ),
    jobs=st.integers(1, 6),
)
def test_no_limit_is_ever_exceeded(lives: list[Life], limits: dict[str, object], jobs: int) -> None:
    run = FleetRun(
        job(limits=limits),
        Fleet(jobs),
        lambda n, c, t: lives[n - 1] if n <= len(lives) else preempted(1200.0),
    ).play(4 * 24 * HOUR)
    assert len(run.sent) <= int(str(limits.get("attempts", 9999)))
    if "deadline" in limits:
        assert all(at < 5 * HOUR for at, _ in run.sent)
    assert run.end is not None or run.stopped is not None
