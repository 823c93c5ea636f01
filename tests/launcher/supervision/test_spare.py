"""The policy near ``limits.attempts``: what is tried in vain costs no attempt that a run needs."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.job.fallback import Limits
from launcher.supervision.attempt import UNSENT, Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet, Lack, lack, spare
from tests.examples import examples
from tests.launcher.supervision.fleet_run import HOUR, FleetRun, Life, dry, preempted, stays
from tests.launcher.supervision.policy_run import job

DAY = 24 * HOUR
HERE, THERE = "us-central1", "us-east4"
LONG = (("state", "FAILED"), ("reason", "The job has run for longer than its timeout."))
(CHOICE,) = choices_of(job(regions=[HERE]), "local")


def moving(limit: int, jobs: int = 1, lost: float = 9e9, opens: float = 9e9) -> FleetRun:
    """A run asked to be where no machines are before ``opens``; it loses its own at ``lost``."""

    def life(number: int, choice: Choice, now: float) -> Life:
        if choice.region == HERE:
            return preempted(lost - now)
        return stays() if now >= opens else dry()

    limited = job(regions=[HERE], limits={"attempts": limit})
    run = FleetRun(limited, Fleet(jobs), life).play(HOUR)
    run.ask(ways=job(regions=[THERE]))
    return run


def attempt(number: int, started: float | None, over: bool = False, **more: object) -> Attempt:
    state = "FAILED" if over else "RUNNING" if started is not None else "PENDING"
    one = Attempt(number, HERE, "x", CHOICE.name, f"j{number}", state, created=float(number))
    return replace(one, started=started, ended=99.0 if over else None, **more)  # type: ignore[arg-type]


# --- how many may be spent --------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "vain", "more"),
    [(9, 0, 7), (9, 1, 2), (9, 2, 1), (9, 3, 0), (9, 8, 0), (2, 0, 0), (1, 0, 0), (3, 0, 1)],
)
def test_one_is_kept_and_half_of_the_others_when_some_were_in_vain(
    limit: int, vain: int, more: int
) -> None:
    attempts = [attempt(1, 1.0), *(attempt(2 + n, None, over=True) for n in range(vain))]
    assert spare(Fleet(1), Limits(attempts=limit), attempts) == more


def test_what_was_in_vain_before_an_attempt_got_machines_counts_no_more() -> None:
    attempts = [attempt(1, None, over=True), attempt(2, None, over=True), attempt(3, 3.0)]
    assert spare(Fleet(1), Limits(attempts=9), attempts) == 5
    unsent = attempt(4, None, over=True, kind=UNSENT)
    assert spare(Fleet(1), Limits(attempts=9), [*attempts, unsent]) == 5


def test_without_a_limit_all_may_be() -> None:
    assert spare(Fleet(3), Limits(), [attempt(1, 1.0)]) == float("inf")


def test_only_what_replaces_one_that_trains_is_a_bonus() -> None:
    moved = Fleet(3, since=0.0)
    ways = choices_of(job(regions=[THERE]), "local")
    trains, waits = attempt(1, 1.0), attempt(2, None)
    assert lack(moved, ways, [trains, waits]) == Lack(0, 3, instead=1)
    leaves = replace(moved, leave=frozenset({1}))
    assert lack(leaves, ways, [trains, waits]).instead == 0
    given_up = replace(trains, left="no way")
    assert lack(moved, ways, [given_up]).instead == 0
    assert Lack(0, 3, instead=1).sent(2) == 2 and Lack(0, 3, instead=1).sent(3) == 3


# --- a move -----------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "jobs", "sent"), [(9, 1, 4), (2, 1, 1), (14, 4, 8), (11, 4, 4)])
def test_a_move_in_vain_stops_while_enough_are_left(limit: int, jobs: int, sent: int) -> None:
    run = moving(limit, jobs).play(DAY)
    assert len(run.sent) == sent and len(run.training) == jobs and run.end is None


@pytest.mark.parametrize(("limit", "jobs"), [(9, 1), (2, 1), (14, 4), (8, 4)])
def test_a_run_that_has_moved_in_vain_survives_the_loss_of_everything(
    limit: int, jobs: int
) -> None:
    run = moving(limit, jobs, lost=20 * HOUR, opens=20 * HOUR).play(DAY)
    assert run.end is None and len(run.training) == jobs
    assert {it.region for it in run.training} == {THERE}


def test_a_move_that_succeeds_may_take_all_but_those() -> None:
    run = moving(8, 4, opens=0.0).play(DAY)
    assert {it.region for it in run.training} == {HERE}, "none would be left for a loss"
    run = moving(12, 4, opens=0.0).play(DAY)
    assert {it.region for it in run.training} == {THERE} and len(run.training) == 4


def test_a_fleet_is_never_moved_in_part_because_of_a_limit() -> None:
    for limit in range(4, 20):
        run = moving(limit, 4, opens=0.0).play(DAY)
        assert len({it.region for it in run.training}) == 1


# --- a timeout --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", range(2, 12))
def test_renewing_in_vain_never_ends_a_run_that_would_go_on_without(limit: int) -> None:
    """No machines from an hour before its timeout on, for as long; then there are some again."""

    def life(number: int, choice: Choice, now: float) -> Life:
        return dry() if 23 * HOUR - 1 <= now < DAY - 60 else Life(lives=DAY, how=LONG)

    timed = job(regions=[HERE], timeout="1d", limits={"attempts": limit})
    ends = [
        FleetRun(timed, Fleet(1), life, renews=renews).play(40 * HOUR).end
        for renews in (False, True)
    ]
    assert ends == [None, None]


def test_the_last_attempt_is_for_when_the_one_before_has_ended() -> None:
    timed = job(regions=[HERE], timeout="1d", limits={"attempts": 3})
    run = FleetRun(timed, Fleet(1), lambda n, c, t: Life(lives=DAY, how=LONG), renews=True)
    run.play(5 * DAY)
    first, second, third = sorted(run.attempts.values(), key=lambda it: it.attempt)
    assert second.created < (first.ended or 0.0), "there is one more for a loss"
    assert third.created >= (second.ended or 0.0)


# --- any market -------------------------------------------------------------------------


@settings(max_examples=examples(60))
@given(
    jobs=st.integers(1, 4),
    limit=st.integers(4, 30),
    machines=st.lists(st.none() | st.floats(0.0, 900.0), min_size=1, max_size=8),
    timeout=st.sampled_from([None, "10h"]),
    asked=st.lists(st.tuples(st.floats(0.0, DAY), st.sampled_from([HERE, THERE])), max_size=4),
)
def test_whatever_is_tried_a_run_that_loses_everything_goes_on(
    jobs: int,
    limit: int,
    machines: list[float | None],
    timeout: str | None,
    asked: list[tuple[float, str]],
) -> None:
    """Those that train live until all are lost at once; whatever else is sent may find nothing."""
    late, lost = cycle(machines), 30 * HOUR

    def life(number: int, choice: Choice, now: float) -> Life:
        if number <= jobs or now >= lost:
            return preempted(lost - now) if now < lost else stays()
        after = next(late)
        return dry() if after is None else replace(preempted(lost - now), machines=after)

    limited = job(regions=[HERE], timeout=timeout, limits={"attempts": max(limit, 2 * jobs)})
    run = FleetRun(limited, Fleet(jobs), life, renews=True)
    for at, region in sorted(asked):
        run.play(at)
        run.ask(ways=job(regions=[region], timeout=timeout))
    run.play(lost - 1)
    assert run.end is None and len(run.training) >= 1
    run.play(lost + 3 * HOUR)
    assert run.end is None and len(run.training) == jobs
