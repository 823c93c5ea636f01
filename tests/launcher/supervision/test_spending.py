"""What a run has spent, what is left of its limits, and what its choices cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.draft import LaunchError, require_prices
from launcher.job.fallback import Limits
from launcher.job.machines import MACHINES
from launcher.job.prices import PriceList
from launcher.supervision.attempt import UNSENT, Attempt
from launcher.supervision.choices import choices_of
from launcher.supervision.limits import account, no_more_attempts, reached, spent, usd_per_hour
from tests.launcher.supervision.policy_run import job

CATALOGUE = PriceList(MACHINES, "a catalogue")
HOUR = 3600.0


def attempt(started: float | None, ended: float | None, **more: Any) -> Attempt:
    return Attempt(1, "r", "x", started=started, ended=ended, **{"usd_per_hour": 10.0, **more})


def limits(**fields: Any) -> Limits:
    return Limits.model_validate(fields)


def test_an_attempt_costs_while_it_runs() -> None:
    taken = spent([attempt(0.0, HOUR), attempt(None, 5 * HOUR), attempt(2 * HOUR, None)], 4 * HOUR)
    assert (taken.usd, taken.seconds, taken.attempts) == (30.0, 3 * HOUR, 3)


def test_what_was_never_sent_is_no_attempt() -> None:
    assert spent([attempt(None, 1.0, kind=UNSENT), attempt(None, 1.0)], 9.0).attempts == 1


def test_an_unknown_price_makes_the_sum_unknown() -> None:
    taken = spent([attempt(0.0, HOUR), attempt(0.0, HOUR, usd_per_hour=None)], HOUR)
    assert taken.usd is None
    assert reached(limits(cost="1 USD"), taken, HOUR) is None


def test_controllers_cost_and_are_neither_attempts_nor_their_time() -> None:
    taken = spent([attempt(0.0, HOUR)], HOUR, 0.5)
    assert (taken.usd, taken.seconds, taken.attempts) == (10.5, HOUR, 1)
    assert reached(limits(cost="10.50 USD"), taken, HOUR)
    assert spent([attempt(0.0, HOUR)], HOUR, None).usd is None
    assert (
        account(limits(cost="11 USD"), [attempt(0.0, HOUR)], HOUR, 0.5)["remaining"]["usd"] == 0.5
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"cost": "31 USD"}, None),
        ({"cost": "30 USD"}, "limits.cost: 30 USD are spent, by estimate"),
        ({"cost": "$29.50"}, "limits.cost: 29.50 USD are spent, by estimate"),
        ({"time": "3h"}, "limits.time: the attempts have run for 3h"),
        ({"time": "3h1s"}, None),
        ({"deadline": "1970-01-01T04:00Z"}, "limits.deadline: it is 1970-01-01T04:00+00:00"),
        ({"deadline": "1970-01-01T06:00:01+02:00"}, None),
    ],
)
def test_a_limit_is_reached(given: dict[str, str], reason: str | None) -> None:
    taken = spent([attempt(0.0, 3 * HOUR)], 4 * HOUR)
    assert reached(limits(**given), taken, 4 * HOUR) == reason


def test_attempts_are_counted() -> None:
    taken = spent([attempt(None, 1.0)], 1.0)
    assert no_more_attempts(limits(attempts=1), taken) == "limits.attempts: 1 attempt was made"
    assert no_more_attempts(limits(attempts=2), taken) is None


def test_the_account() -> None:
    given = limits(cost="25 USD", time="2h", attempts=3, deadline="1970-01-02T00:00Z")
    assert account(given, [attempt(0.0, HOUR)], HOUR) == {
        "usd": 10.0,
        "controllers": 0.0,
        "seconds": HOUR,
        "attempts": 1,
        "remaining": {"usd": 15.0, "seconds": HOUR, "attempts": 2, "until": 86_400.0},
    }


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e3)), max_size=20),
    st.floats(0, 1e6),
)
def test_more_time_never_costs_less(times: list[tuple[float, float, float]], more: float) -> None:
    attempts = [attempt(at, at + took, usd_per_hour=rate) for at, took, rate in times]
    attempts.append(attempt(0.0, None))
    before, after = spent(attempts, 1e6), spent(attempts, 1e6 + more)
    assert before.usd is not None and after.usd is not None and before.usd <= after.usd


def test_a_choice_costs_what_its_machines_do() -> None:
    both = job(fallback=[{"strategy": "standard"}], regions=["us-central1"])
    spot, dear = choices_of(both, "local", CATALOGUE)
    assert usd_per_hour(spot.job, CATALOGUE) == spot.usd_per_hour == pytest.approx(4 * 26.8)
    assert usd_per_hour(dear.job, CATALOGUE) == dear.usd_per_hour == pytest.approx(4 * 87.83)


def test_a_limit_on_the_cost_needs_every_price() -> None:
    unpriced = job(
        fallback=[{"machine": "a2-ultragpu-4g"}], regions=["us-central1"], limits={"cost": "5 USD"}
    )
    with pytest.raises(LaunchError, match="the price of 8 x a2-ultragpu-4g, spot, us-central1 is"):
        require_prices(unpriced, choices_of(unpriced, "local", CATALOGUE))
