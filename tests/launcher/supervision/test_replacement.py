"""The policy when a run is asked to be another: make before break."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.job.fallback import Limits
from launcher.job.job import Job
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet
from launcher.supervision.policy import (
    GRACE,
    Cancel,
    End,
    Leave,
    Renew,
    Retire,
    Situation,
    Stop,
    Terms,
    Watch,
    decide,
)
from launcher.supervision.replacement import LEAD, LIMIT, Inside
from launcher.supervision.verdict import verdict_of
from tests.examples import examples
from tests.launcher.supervision.fleet_run import (
    HOUR,
    LIVES,
    MEMBERS,
    ON_DEMAND,
    POLL,
    WARM,
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

HERE = job(regions=["us-central1"])
THERE = job(regions=["us-east4"])


def forever(number: int, choice: Choice, now: float) -> Life:
    return stays()


def regions(run: FleetRun) -> Counter[str]:
    return Counter(it.region for it in run.alive)


def moving(jobs: int = 1, fates: dict[int, Life] | None = None) -> FleetRun:
    """A run that has trained for an hour, and is asked to be elsewhere."""
    run = FleetRun(HERE, Fleet(jobs), lambda n, c, t: (fates or {}).get(n, stays())).play(HOUR)
    run.ask(ways=THERE)
    return run


# --- moving ---------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_new_ones_are_sent_at_once_and_the_old_ones_go_when_those_train(jobs: int) -> None:
    run = moving(jobs)
    run.play(HOUR + WARM - 1)
    assert regions(run) == {"us-central1": jobs, "us-east4": jobs}
    run.play(HOUR + WARM + 1)
    assert regions(run) == {"us-east4": jobs} and run.most_alive == 2 * jobs
    assert {verdict_of(it) for it in run.attempts.values() if it.over} == {"replaced"}
    run.play(24 * HOUR)
    assert len(run.sent) == 2 * jobs and run.end is None


def test_one_goes_for_each_that_trains() -> None:
    late = {n: Life(machines=600.0 * (n - 4)) for n in range(5, 8)}
    run = moving(4, {**late, 8: Life(machines=None)})
    seen = []
    for minute in (5, 15, 25, 35, 600):
        run.play(HOUR + minute * 60)
        seen.append(sum(it.region == "us-central1" for it in run.training))
    assert seen == [4, 3, 2, 1, 1], "the last one has no machines there"


def test_where_there_are_no_machines_the_run_stays_where_it_is() -> None:
    run = moving(2, {n: dry() for n in range(3, 999)})
    run.play(24 * HOUR)
    assert [it.attempt for it in run.training] == [1, 2] and run.end is None
    assert len(run.sent) < 150, "and the region rests in between"


@pytest.mark.parametrize("life", [cancelled(30.0), apart(), fails("exited with status 1", 30.0)])
def test_the_last_one_that_trains_stays_whatever_becomes_of_its_replacement(life: Life) -> None:
    run = moving(1, {2: life})
    run.play(24 * HOUR)
    assert [it.attempt for it in run.training] == [1] and run.end is None
    assert len(run.sent) == 2


def test_one_that_is_to_take_anothers_place_stays_though_its_own_timeout_is_near_first() -> None:
    """Its machines are so slow that it does not train when half its own timeout has passed."""
    brief = job(regions=["us-central1"], timeout="60s")
    (choice,) = choices_of(brief, "local")
    first = Attempt(1, "us-central1", "x", choice.name, "job/1", "RUNNING", started=0.0)
    second = replace(first, attempt=2, job="job/2", started=30.0)
    renewed = Fleet(1, since=0.0, renew=frozenset({1}))
    terms = Terms("run-1", (choice,), 0.0, fleet=renewed, renews=True, stop_grace=60.0)
    world = Inside({1: MEMBERS}, trains=True)
    assert decide(terms, Situation((first, second), world=world), 61.0) == [Watch()]
    ended = replace(first, state="FAILED", reason="longer than its timeout", ended=62.0)
    after = Situation((ended, second), world=Inside({2: MEMBERS}, trains=True))
    assert decide(terms, after, 63.0) == [Renew(frozenset({2}))], "now one can be sent for it"


def test_while_one_takes_the_place_of_another_both_cost_and_the_limit_holds() -> None:
    """The new one is not in the world yet, so the old one may not go: the run is stopped."""
    (here,), (there,) = choices_of(HERE, "local"), choices_of(THERE, "local")
    up = Attempt(1, "us-central1", "x", here.name, "job/1", "RUNNING", created=0.0, started=0.0)
    up = replace(up, usd_per_hour=10.0)
    new = replace(up, attempt=2, region="us-east4", choice=there.name, job="job/2")
    new = replace(new, created=HOUR, started=HOUR)
    limits = Limits.model_validate({"cost": "30 USD"})
    moved = Fleet(1, since=HOUR)
    terms = Terms("run-1", (there,), 0.0, limits=limits, fleet=moved, renews=True, stop_grace=60.0)
    seen = Situation((up, new), world=Inside({1: MEMBERS}, trains=True))

    assert decide(terms, seen, 2 * HOUR - 1) == [Watch()], "it would hold for another hour of one"
    why = "limits.cost: 30 USD are spent, by estimate"
    assert decide(terms, seen, 2 * HOUR) == [Stop(why)]
    asked = replace(seen, stop=why)
    assert decide(terms, asked, 2 * HOUR + 9) == [Watch()], "nothing is sent, and nothing goes"
    late = replace(asked, since_stop=60.0)
    (end,) = decide(terms, late, 2 * HOUR + 60)
    assert end == End("limited", f"{why}; no checkpoint was saved within 60 s")
    over = replace(late, outcome={"state": "limited"}, since_outcome=GRACE)
    assert decide(terms, over, 2 * HOUR + 90) == [Cancel(1), Cancel(2)]


def test_what_is_wanted_anew_is_tried_anew() -> None:
    run = moving(1, {2: fails("exited with status 1", 30.0)})
    run.play(2 * HOUR)
    run.ask(ways=THERE)
    run.play(3 * HOUR)
    assert regions(run) == {"us-east4": 1}


def test_one_that_waits_for_machines_goes_at_once_when_something_else_is_wanted() -> None:
    run = moving(1, {2: Life(machines=None)})
    run.play(HOUR + 1)
    run.ask(ways=job(regions=["europe-west4"]))
    run.play(HOUR + 2)
    assert regions(run) == {"us-central1": 1, "europe-west4": 1}
    run.play(2 * HOUR)
    assert regions(run) == {"europe-west4": 1}


def test_a_run_that_nobody_has_asked_anything_replaces_nothing() -> None:
    strange = Attempt(1, "elsewhere", "x", "of another version", state="RUNNING", started=0.0)
    strange = replace(strange, job="j", created=0.0, submitted=0.0)
    terms = Terms("r", tuple(choices_of(HERE, "local")), 0.0, stop_grace=600.0)
    terms = replace(terms, fleet=Fleet(1, across_regions=True))
    world = Inside({1: MEMBERS}, True)
    assert decide(terms, Situation((strange,), world=world), 99 * HOUR) == [Watch()]


def test_a_world_that_still_forms_lets_nobody_go() -> None:
    run = moving()
    run.play(HOUR + 1)
    old, new = run.attempts[1], replace(run.attempts[2], state="RUNNING", started=run.now)
    situation = Situation((old, new), world=Inside({1: MEMBERS, 2: MEMBERS}, trains=False))
    assert decide(run.terms, situation, run.now) == [Watch()]
    part = Situation((old, new), world=Inside({1: MEMBERS, 2: MEMBERS - 1}, trains=True))
    assert decide(run.terms, part, run.now) == [Watch()], "nor one that lacks a VM of the new one"
    whole = Situation((old, new), world=Inside({1: MEMBERS, 2: MEMBERS}, trains=True))
    assert decide(run.terms, whole, run.now) == [Retire(frozenset({1}))]


def test_who_is_to_leave_is_cancelled_when_it_has_left_or_takes_too_long() -> None:
    run = moving()
    run.play(HOUR + 1)
    both = (run.attempts[1], replace(run.attempts[2], state="RUNNING", started=run.now))
    fleet = replace(run.terms.fleet, leave=frozenset({1}))
    terms = replace(run.terms, fleet=fleet)

    def after(seconds: float, members: dict[int, int]) -> list[object]:
        world = Inside(members, True, {1: seconds})
        return [*decide(terms, Situation(both, world=world), run.now)]

    leave = Leave(1, "it is not wanted any more", "replaced")
    assert after(LIMIT - 1, {1: 1, 2: MEMBERS}) == [Watch()]
    assert after(LIMIT, {1: 1, 2: MEMBERS}) == [leave]
    assert after(1.0, {2: MEMBERS}) == [leave]


# --- resizing -------------------------------------------------------------------------


def test_more_jobs_are_sent_and_those_that_train_go_on() -> None:
    run = FleetRun(HERE, Fleet(2), forever).play(HOUR)
    run.ask(4)
    run.play(2 * HOUR)
    assert [it.attempt for it in run.training] == [1, 2, 3, 4] and run.most_alive == 4


def test_of_fewer_jobs_the_newest_go_and_anchors_stay() -> None:
    fleet = Fleet(4, anchor=1, anchors=ON_DEMAND)
    anchored = {1: preempted(600.0)}
    run = FleetRun(HERE, fleet, lambda n, c, t: anchored.get(n, stays())).play(HOUR)
    assert [it.attempt for it in run.training] == [2, 3, 4, 5], "5 is the anchor"
    run.ask(2)
    run.play(HOUR + 1)
    assert [it.attempt for it in run.alive] == [2, 5]
    run.play(24 * HOUR)
    assert len(run.sent) == 5


def test_of_fewer_jobs_those_go_first_that_do_not_train() -> None:
    run = FleetRun(HERE, Fleet(3), lambda n, c, t: Life(machines=None) if n < 3 else stays())
    run.play(HOUR)
    run.ask(1)
    run.play(HOUR + 1)
    assert [it.attempt for it in run.alive] == [3]


def test_who_was_cancelled_by_somebody_before_counts_no_more() -> None:
    run = FleetRun(HERE, Fleet(2), lambda n, c, t: cancelled(600.0) if n == 1 else stays())
    run.play(HOUR)
    assert len(run.alive) == 1
    run.ask(2)
    run.play(2 * HOUR)
    assert len(run.alive) == 2


def test_fewer_jobs_and_elsewhere_at_once() -> None:
    run = FleetRun(HERE, Fleet(8), forever).play(HOUR)
    run.ask(2, THERE)
    run.play(2 * HOUR)
    assert regions(run) == {"us-east4": 2} and len(run.sent) == 10


# --- a timeout that is near -----------------------------------------------------------


def test_before_its_timeout_another_comes_and_trains() -> None:
    limited = job(regions=["us-central1"], timeout="1d")
    run = FleetRun(limited, Fleet(1), forever, renews=True)
    day = 24 * HOUR
    run.play(day - LEAD.total_seconds() - 1)
    assert len(run.sent) == 1
    run.play(day - 1)
    assert [it.attempt for it in run.training] == [2] and run.most_alive == 2
    run.play(10 * day)
    assert len(run.training) == 1 and 10 <= len(run.sent) <= 11


def test_a_short_timeout_is_halved() -> None:
    run = FleetRun(job(timeout="1h"), Fleet(2), forever, renews=True).play(HOUR / 2 - 1)
    assert len(run.sent) == 2
    run.play(HOUR / 2 + POLL)
    assert len(run.sent) == 4


def test_who_cannot_be_joined_by_others_is_not_renewed() -> None:
    run = FleetRun(job(timeout="1h"), Fleet(1), lambda n, c, t: preempted(HOUR)).play(HOUR - 1)
    assert len(run.sent) == 1


def test_a_limit_of_attempts_is_not_exceeded_for_it() -> None:
    limited = job(timeout="2h", limits={"attempts": 2})
    run = FleetRun(limited, Fleet(2), lambda n, c, t: preempted(2 * HOUR), renews=True)
    run.play(5 * HOUR)
    assert len(run.sent) == 2
    assert run.end and run.end.state == "limited"


# --- any history ----------------------------------------------------------------------

WAYS: list[Job | None] = [None, HERE, THERE, job(regions=["us-central1"], scheduling="standard")]
ASKED = st.tuples(st.floats(0.0, 24 * HOUR), st.none() | st.integers(1, 6), st.sampled_from(WAYS))


@settings(max_examples=examples(40))  # days of six jobs: a second and more each
@given(
    lives=st.lists(LIVES, max_size=40),
    jobs=st.integers(1, 6),
    asked=st.lists(ASKED, max_size=5),
    timeout=st.sampled_from([None, "3h"]),
)
def test_any_history_converges_on_what_is_wanted_last(
    lives: list[Life],
    jobs: int,
    asked: list[tuple[float, int | None, Job | None]],
    timeout: str | None,
) -> None:
    ways = {id(way): way and way.model_copy(update={"timeout": None}) for way in WAYS}
    run = FleetRun(
        job(regions=["us-central1"], timeout=timeout),
        Fleet(jobs),
        lambda n, c, t: lives[n - 1] if n <= len(lives) else stays(),
        renews=True,
    )
    for at, wanted, way in sorted(asked, key=lambda it: it[0]):
        run.play(at)
        if run.end is None:
            run.ask(wanted, ways[id(way)])
    run.play(6 * 24 * HOUR)
    most = max([jobs, *(wanted for _, wanted, _ in asked if wanted)])
    assert run.most_beside <= 0, "never more than are wanted, beside those that go"
    assert run.most_alive <= 2 * most
    if run.end is not None:
        assert run.end.state == "failed" and not run.alive, "only what never gets anywhere"
        return
    named = {choice.name for choice in run.terms.choices}
    there = [it for it in run.alive if it.attempt not in run.terms.fleet.renew]
    assert len(there) == run.terms.fleet.jobs
    assert {it.choice for it in there} <= named


@settings(max_examples=examples(30))
@given(asked=st.lists(ASKED, min_size=1, max_size=5), jobs=st.integers(1, 6))
def test_somebody_trains_at_any_moment_whatever_is_asked(
    asked: list[tuple[float, int | None, Job | None]], jobs: int
) -> None:
    """While no machine is taken away."""
    run = FleetRun(HERE, Fleet(jobs), lambda n, c, t: Life(machines=60.0 * (n % 7)))
    run.play(24 * HOUR)
    for at, wanted, way in sorted(asked, key=lambda it: it[0]):
        while run.now < 24 * HOUR + at:
            run.play(min(run.now + 30.0, 24 * HOUR + at))
            assert run.training
        run.ask(wanted, way)
    for _ in range(200):
        run.play(run.now + 30.0)
        assert run.training


@settings(max_examples=examples(40))
@given(
    lives=st.lists(LIVES, max_size=20),
    asked=st.lists(ASKED, max_size=4),
    limits=st.sampled_from([{"attempts": 9}, {"time": "1h"}, {"deadline": "1970-01-01T05:00Z"}]),
)
def test_no_limit_is_exceeded_for_what_is_asked(
    lives: list[Life],
    asked: list[tuple[float, int | None, Job | None]],
    limits: dict[str, object],
) -> None:
    run = FleetRun(
        job(regions=["us-central1"], limits=limits, timeout="2h"),
        Fleet(2),
        lambda n, c, t: lives[n - 1] if n <= len(lives) else preempted(1200.0),
        renews=True,
    )
    for at, wanted, way in sorted(asked, key=lambda it: it[0]):
        run.play(at)
        if run.end is None and run.stopped is None:
            run.ask(wanted, way)
    run.play(4 * 24 * HOUR)
    assert len(run.sent) <= int(str(limits.get("attempts", 9999)))
    if "deadline" in limits:
        assert all(at < 5 * HOUR for at, _ in run.sent)
    assert isinstance(run.end, End) or run.stopped is not None
