"""The policy on dear machines: what costs less is tried beside them, and takes their place."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.job.job import Job
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet
from launcher.supervision.limits import spent
from launcher.supervision.preference import cheaper
from tests.examples import examples
from tests.launcher.supervision.fleet_run import (
    HOUR,
    LIVES,
    ON_DEMAND,
    WARM,
    FleetRun,
    Life,
    apart,
    dry,
    fails,
    stays,
)
from tests.launcher.supervision.policy_run import job

MINUTE = 60.0
STANDARD = {"strategy": "standard"}
PRICES = {"spot": 3.0, "standard": 10.0}


def one(**fields: Any) -> Job:
    """A job that goes on demand where there is no Spot machine."""
    return job(**{"regions": ["us-central1"], "fallback": [STANDARD], **fields})


def market(opens: float) -> Any:
    """There is no Spot machine before ``opens``, and ever one on demand."""

    def life(number: int, choice: Choice, now: float) -> Life:
        return stays() if is_dear(choice.name) or now >= opens else dry()

    return life


def is_dear(choice: str) -> bool:
    return "standard" in choice


def kinds(run: FleetRun) -> Counter[str]:
    return Counter("standard" if is_dear(it.choice) else "spot" for it in run.alive)


# --- what is dear ---------------------------------------------------------------------


def names(choices: list[Choice]) -> list[str]:
    return [it.name.split(", ", 1)[1] for it in choices]


def test_on_demand_is_dear_where_spot_comes_before_it() -> None:
    ways = choices_of(
        one(fallback=[{"regions": ["us-east4"]}, STANDARD, {"regions": ["us-west1"]}]), "local"
    )
    assert names(ways) == [
        "spot, us-central1",
        "spot, us-east4",
        "standard, us-central1",
        "spot, us-west1",
    ]
    assert [names(cheaper(ways, it.name)) for it in ways] == [[], [], names(ways[:2]), []]


def test_what_comes_late_by_itself_may_come_beside_a_dear_one_at_once() -> None:
    late = {"regions": ["us-east4"], "after": "2h"}
    ways = choices_of(one(fallback=[late, STANDARD]), "local")
    assert [it.after for it in cheaper(ways, ways[-1].name)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("spot", "standard", "found"),
    [(3.0, 10.0, True), (10.0, 10.0, False), (None, 10.0, True), (3.0, None, True)],
)
def test_spot_that_is_known_to_cost_as_much_is_not_cheaper(
    spot: float | None, standard: float | None, found: bool
) -> None:
    run = FleetRun(
        one(),
        Fleet(),
        market(0.0),
        prices={
            name: usd
            for name, usd in {"spot": spot, "standard": standard}.items()
            if usd is not None
        },
    )
    ways = run.terms.choices
    assert bool(cheaper(ways, ways[-1].name)) is found


# --- the way back ---------------------------------------------------------------------


def test_a_run_on_demand_goes_back_to_spot_while_it_trains() -> None:
    run = FleetRun(one(), Fleet(), market(HOUR), renews=True, prices=PRICES)
    run.play(20 * MINUTE)
    assert kinds(run) == {"standard": 1} and run.training
    while not (run.training and not is_dear(run.training[0].choice)):
        run.play(run.now + MINUTE)
        assert run.training, "at any moment"
    assert HOUR <= run.now <= HOUR + 31 * MINUTE
    run.play(run.now + MINUTE)
    assert kinds(run) == {"spot": 1} and run.most_alive == 2
    run.play(48 * HOUR)
    assert len(run.alive) == 1 and len(run.sent) == len(run.attempts) < 9


def test_both_are_paid_for_while_both_have_machines() -> None:
    run = FleetRun(one(), Fleet(), market(HOUR), renews=True, prices=PRICES)
    run.play(3 * HOUR)
    dear, spot = (
        [it for it in run.attempts.values() if it.started is not None and is_dear(it.choice) is one]
        for one in (True, False)
    )
    together = (dear[0].ended or 0.0) - (spot[0].started or 0.0)
    assert WARM <= together <= WARM + 1
    usd = spent([*run.attempts.values()], run.now).usd
    hours = [
        sum((it.ended or run.now) - (it.started or 0.0) for it in them) for them in (dear, spot)
    ]
    assert usd == pytest.approx((10 * hours[0] + 3 * hours[1]) / HOUR)
    assert sum(hours) == pytest.approx(run.now - (dear[0].started or 0.0) + together)


@pytest.mark.parametrize(("back", "least", "most"), [("10min", 48, 110), ("1h", 22, 50)])
def test_it_is_tried_as_often_as_the_job_says(back: str, least: int, most: int) -> None:
    tried = one(resubmit={"back": back, "longest": "30min"})
    run = FleetRun(tried, Fleet(), market(1e9), renews=True)
    run.play(25 * HOUR)
    spot = [it.created for it in run.attempts.values() if not is_dear(it.choice)]
    spot = [at for at in spot if at > HOUR]
    assert least <= len(spot) <= most
    assert min(b - a for a, b in pairwise(spot)) >= {"10min": 300.0, "1h": 1800.0}[back]
    assert run.training and is_dear(run.training[0].choice) and run.most_alive == 2


@pytest.mark.parametrize("renews", [True, False])
def test_not_where_it_is_not_to_be_or_cannot_be(renews: bool) -> None:
    job = one(resubmit={"back": None}) if renews else one()
    run = FleetRun(job, Fleet(), market(HOUR), renews=renews).play(48 * HOUR)
    assert kinds(run) == {"standard": 1} and run.most_alive == 1


def test_an_anchor_is_on_demand_because_it_is_to_be() -> None:
    fleet = Fleet(3, anchor=1, anchors=ON_DEMAND)
    run = FleetRun(one(), fleet, market(HOUR), renews=True)
    run.play(30 * MINUTE)
    assert kinds(run) == {"standard": 3}
    run.play(24 * HOUR)
    assert kinds(run) == {"standard": 1, "spot": 2} and len(run.training) == 3


def test_what_waits_for_machines_waits_beside_it_and_costs_no_place() -> None:
    def life(number: int, choice: Choice, now: float) -> Life:
        return stays() if is_dear(choice.name) else dry() if now < MINUTE else Life(3 * HOUR)

    run = FleetRun(one(), Fleet(), life, renews=True)
    run.play(3 * HOUR)
    assert kinds(run) == {"standard": 1, "spot": 1} and len(run.training) == 1
    run.play(9 * HOUR)
    assert kinds(run) == {"spot": 1} and len(run.training) == 1


@pytest.mark.parametrize("life", [apart(), fails("exited with status 1", 30.0)])
def test_what_never_works_beside_it_is_not_tried_again(life: Life) -> None:
    def fate(number: int, choice: Choice, now: float) -> Life:
        return stays() if is_dear(choice.name) else dry() if now < MINUTE else life

    run = FleetRun(one(), Fleet(), fate, renews=True).play(48 * HOUR)
    assert kinds(run) == {"standard": 1} and run.end is None
    assert sum(not is_dear(it.choice) and it.created > MINUTE for it in run.attempts.values()) == 1


def test_a_fleet_of_several_tries_it_where_it_trains_and_one_job_anywhere() -> None:
    tried: dict[int, set[str]] = {}
    for jobs in (1, 3):
        two = one(fallback=[{"regions": ["us-east4"]}, {**STANDARD, "regions": ["us-central1"]}])
        run = FleetRun(two, Fleet(jobs), market(1e9), renews=True).play(24 * HOUR)
        assert kinds(run)["standard"] == jobs
        spot = (it for it in run.attempts.values() if not is_dear(it.choice))
        tried[jobs] = {it.region for it in spot if it.created > HOUR}
    assert tried == {1: {"us-central1", "us-east4"}, 3: {"us-central1"}}


def test_the_last_attempts_of_a_limit_are_not_spent_on_it() -> None:
    limited = one(limits={"attempts": 6})
    run = FleetRun(limited, Fleet(2), market(1e9), renews=True).play(48 * HOUR)
    assert len(run.sent) == 4 and kinds(run) == {"standard": 2}, "two are left to go on with"


def test_whoever_wants_it_on_demand_now_keeps_it() -> None:
    run = FleetRun(one(), Fleet(), market(9 * HOUR), renews=True).play(2 * HOUR)
    run.ask(ways=one(scheduling="standard", fallback=[]))
    run.play(48 * HOUR)
    assert kinds(run) == {"standard": 1}
    assert all(it.created < 2 * HOUR for it in run.attempts.values() if not is_dear(it.choice))


# --- any market -----------------------------------------------------------------------


@settings(max_examples=examples(12))
@given(
    lives=st.lists(LIVES, max_size=12),
    jobs=st.integers(1, 5),
    anchor=st.integers(0, 1),
    after=st.sampled_from(["0s", "20min", "2h"]),
    back=st.sampled_from(["1min", "30min", "3h"]),
    timeout=st.sampled_from([None, "5h"]),
)
def test_any_market_leads_back_to_spot_and_never_to_more_dear_machines_than_are_wanted(
    lives: list[Life], jobs: int, anchor: int, after: str, back: str, timeout: str | None
) -> None:
    left = list(lives)

    def life(number: int, choice: Choice, now: float) -> Life:
        return stays() if is_dear(choice.name) or not left else left.pop(0)

    way = one(
        fallback=[{**STANDARD, "after": after}],
        resubmit={"pause": "1min", "longest": "30min", "back": back},
        timeout=timeout,
    )
    run = FleetRun(way, Fleet(jobs, anchor, ON_DEMAND), life, renews=True, prices=PRICES)
    while run.now < 3 * 24 * HOUR and run.end is None:
        before = {it.attempt for it in run.training}
        run.play(run.now + 10 * MINUTE)
        dear = [it for it in run.alive if is_dear(it.choice) and not it.left]
        renewed = sum(it.attempt in run.terms.fleet.renew for it in dear)
        assert len(dear) - renewed <= jobs, "beyond those that are renewed before their timeout"
        assert len(run.alive) <= 2 * jobs
        gone = [run.attempts[n] for n in before - {it.attempt for it in run.training}]
        if gone and all(is_dear(it.choice) for it in gone) and len(gone) == len(before):
            assert run.training, "the last that trains goes only for one that does"
    assert run.end is None or run.end.state == "failed"
    if run.end is None:
        now = [it for it in run.training if it.attempt not in run.terms.fleet.renew]
        assert sum(is_dear(it.choice) for it in now) <= anchor and len(run.alive) >= jobs
