"""``swell status --json`` is a contract: computed purely from what is on record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.status.figures import NOTHING
from launcher.status.history import History
from launcher.status.status import ABANDONED, Outcome, build_status
from tests.launcher.status.events import (
    RIDE,
    RIDE_REPEATED,
    RIDE_THERE,
    RIDE_TRAINED,
    A,
    B,
    event,
    formed,
    steps,
)
from trainer.rundir.events import Event

NO_CHECKPOINT = {"step": None, "age": None, "failed": 0, "reason": None}
RUNNING = [{"attempt": 1, "state": "RUNNING", "reason": ""}]


def test_the_status_of_a_run_that_rode_the_market() -> None:
    status = build_status("one", History(RIDE), RUNNING, None, now=141.0)
    ledger = status.pop("ledger")
    assert (ledger["since"], ledger["until"], ledger["there"]) == (98.0, 140.0, RIDE_THERE)
    assert ledger["wanted"] == 3 * (140.0 - 98.0), "nobody says how many, but there were three"
    assert ledger["seconds"]["repeated"] == RIDE_REPEATED
    assert status == {
        "run": "one",
        "state": "running",
        "step": 16,
        "told_every": None,
        "seconds": None,
        "attempts": RUNNING,
        "generations": [
            {
                "generation": 1,
                "world_size": 3,
                "cause": "start",
                "at": 98.0,
                "step": 0,
                "speed": 1.0,
            },
            {
                "generation": 2,
                "world_size": 2,
                "cause": "drain",
                "at": 111.5,
                "step": 10,
                "speed": 0.5,
            },
            {
                "generation": 3,
                "world_size": 1,
                "cause": "loss",
                "at": 123.0,
                "step": 14,
                "speed": 0.06667,
            },
        ],
        "drains": 1,
        "losses": 1,
        "steps_lost": 1,
        "steps_unsaved": None,
        "steps_left_out": 0,
        "samples_repeated": None,
        "samples_skipped": None,
        "samples_left_out": None,
        "pauses": [
            {"cause": "drain", "seconds": 2.0, "generation": 2, "step": 10},
            {"cause": "loss", "seconds": 5.0, "generation": 3, "step": 14},
        ],
        "goodput": round(RIDE_TRAINED / RIDE_THERE, 4),
        # One step in 15 s; nobody counts samples.
        "speed": {**NOTHING, "steps": 0.06667},
        "checkpoint": NO_CHECKPOINT,
        "output": None,
        "metrics": {"loss": 1.0, "test_accuracy": 0.9},
        "nonfinite": {},
        "epochs": None,
        "reason": None,
        "troubles": [],
        "waits_for": None,
        "wanted": None,
        "replaced": [],
        "spent": {
            "usd": 0.0,
            "controllers": 0.0,
            "seconds": 0.0,
            "attempts": 1,
            "remaining": {"usd": None, "seconds": None, "attempts": None, "until": None},
        },
        "attended": None,
        "controllers": [],
        "api": None,
        "apis": [],
    }


def test_what_a_run_waits_for_is_said_until_it_goes_on() -> None:
    told = event("held_up", 150.0, reason="step 17", seconds=10.0, limit=600.0, then="it is left")

    def waits_for(*events: Event, now: float = 155.0, outcome: Outcome | None = None) -> Any:
        status = build_status("one", History([*RIDE, *events]), RUNNING, outcome, now=now)
        return status["waits_for"]

    assert waits_for(told) == "waiting for 15 s: step 17; in 9:45 it is left"
    assert waits_for(told, now=10_000.0) == "waiting for 2:44:20: step 17"
    assert waits_for(told, steps(3, 151.0, 17, [1.0])) is None
    assert waits_for(told, outcome=Outcome("succeeded", "", {})) is None


@given(st.permutations(RIDE))
def test_counts_do_not_depend_on_the_order_in_which_writers_are_read(events: list[Event]) -> None:
    status = build_status("one", History(events), RUNNING, None)
    expected = build_status("one", History(RIDE), RUNNING, None)
    for name in ("step", "generations", "drains", "losses", "steps_lost", "pauses", "metrics"):
        assert status[name] == expected[name]


@given(
    st.permutations(
        [
            event("checkpoint_committed", 100.0, step=5, bytes=9, seconds=1.0),
            event("checkpoint_failed", 150.0, step=10, reason="503", failures=1),
            event("checkpoint_committed", 200.0, step=15, bytes=9, seconds=1.0),
            event("checkpoint_failed", 250.0, step=20, reason="503", failures=1),
            event("checkpoint_failed", 251.0, step=20, reason="403", failures=1),
            event("checkpoint_skipped", 260.0, step=23, reason="too short"),
            event("checkpoint_failed", 270.0, step="x", reason="not of the documented form"),
        ]
    )
)
def test_how_old_the_newest_checkpoint_is_and_how_many_failed_since(events: list[Event]) -> None:
    status = build_status("one", History(events), RUNNING, None, now=300.0)
    expected = {"step": 15, "age": 100.0, "failed": 2, "reason": "too short"}
    assert status["checkpoint"] == expected


def test_a_run_without_any_event() -> None:
    status = build_status("one", History(), [], None)
    assert (status["state"], status["step"], status["generations"]) == ("queued", 0, [])
    assert status["goodput"] is None


def test_states() -> None:
    def state(
        events: list[Event], attempt: str | None, outcome: str | None = None, gone: bool = False
    ) -> str:
        attempts = [{"attempt": 1, "state": attempt}] if attempt else []
        found = Outcome(outcome, "", {}) if outcome else None
        return str(build_status("one", History(events), attempts, found, (), gone)["state"])

    waiting = event("waiting", 130.0, slots=1, min_workers=2)
    assert state([], "QUEUED") == "queued"
    assert state([], "PENDING") == "queued"
    assert state([], "RUNNING") == "running"
    assert state([waiting], "RUNNING") == "waiting"
    assert state([waiting, formed(4, 131.0, "grow", [A, B])], "RUNNING") == "running"
    assert state(RIDE, "SUCCEEDED", "succeeded") == "succeeded"
    assert state(RIDE, "RUNNING", "cancelled") == "cancelled"
    assert state(RIDE, "RUNNING", gone=True) == "failed"


def test_a_run_whose_launch_is_gone_says_so() -> None:
    status = build_status("one", History(RIDE), RUNNING, None, (), abandoned=True)
    assert status["reason"] == ABANDONED


def test_the_outcome_has_the_last_word_on_metrics() -> None:
    outcome = Outcome("succeeded", "done", {"test_accuracy": 0.95})
    status = build_status("one", History(RIDE), RUNNING, outcome)
    assert status["metrics"] == {"loss": 1.0, "test_accuracy": 0.95}
    assert status["reason"] == "done"


@pytest.mark.parametrize("written", ["nan", float("nan")], ids=["now", "by older versions"])
def test_a_metric_that_json_lacks_is_a_word_and_says_since_when(written: Any) -> None:
    losses = [2.0, float("inf"), 1.0, written, "inf", written]
    status = build_status("one", History([steps(1, 1.0, 1, losses)]), RUNNING, None)
    assert status["metrics"] == {"loss": "nan"}
    assert status["nonfinite"] == {"loss": 4}
    json.dumps(status, allow_nan=False)


def test_a_step_that_ended_the_run_tells_its_loss_too() -> None:
    ended = event("nonfinite", 150.0, step=17, action="stop", metrics={"loss": "nan"})
    left = [event("nonfinite", 150.0, step=n, action="skip", rank=n) for n in (17, 17, 18)]
    status = build_status("one", History([*RIDE, ended]), RUNNING, None)
    assert status["metrics"] == {"loss": "nan", "test_accuracy": 0.9}
    assert (status["nonfinite"], status["steps_left_out"]) == ({"loss": 17}, 0)
    assert build_status("one", History([*RIDE, *left]), RUNNING, None)["steps_left_out"] == 2


def test_a_run_that_ends_with_a_metric_that_is_no_number_says_since_when() -> None:
    odd = [event("evaluated", 150.0 + n, step=n, metrics={"accuracy": "nan"}) for n in (18, 20)]
    outcome = Outcome("succeeded", "", {"accuracy": float("nan")})
    status = build_status("one", History([*RIDE, *odd]), RUNNING, outcome)
    assert (status["metrics"]["accuracy"], status["nonfinite"]) == ("nan", {"accuracy": 18})
    healed = Outcome("succeeded", "", {"accuracy": 0.5})
    assert build_status("one", History([*RIDE, *odd]), RUNNING, healed)["nonfinite"] == {}


def test_a_worker_that_lives_and_comes_to_no_step_is_a_trouble_until_it_does() -> None:
    still = event("stalled", 200.0, generation=3, step=16, seconds=600.0, member=A)

    def troubles(*more: Event, over: bool = False) -> list[str]:
        outcome = Outcome("failed", "", {}) if over else None
        found: list[str] = build_status(
            "one", History([*RIDE, still, *more]), RUNNING, outcome, now=260.0
        )["troubles"]
        return found

    assert troubles() == [
        f"no step for 11:00, although {A} lives: nobody else has its state, so nobody ends it; "
        f"swell logs RUN --replica {A} says what it does, swell cancel ends it"
    ]
    assert troubles(steps(3, 250.0, 17, [1.0])) == []
    assert troubles(formed(4, 250.0, "grow", [A, B])) == []
    assert troubles(event("paused", 250.0, generation=3, step=16, cause="loss")) == []
    assert troubles(over=True) == []
    several = event("stalled", 201.0, generation=3, step=16, seconds=601.0)
    assert troubles(several) == ["no step for 11:00, although all workers live"]


@pytest.mark.parametrize("kind", ["no_group", "unsaved_files"])
def test_what_makes_less_of_a_success_is_a_trouble_that_outlives_the_run(kind: str) -> None:
    told = event(kind, 200.0, reason="each by itself")
    history = History([*RIDE, told])
    for outcome in (None, Outcome("succeeded", "", {})):
        assert build_status("one", history, RUNNING, outcome)["troubles"] == ["each by itself"]


def test_since_when_does_not_depend_on_the_order_of_events() -> None:
    found = [steps(1, 1.0, 1, [1.0, "nan"]), steps(1, 2.0, 3, ["nan", "nan"])]
    assert History(found).nonfinite == History(found[::-1]).nonfinite == {"loss": 2}
    healed = [*found, steps(1, 3.0, 5, [1.0])]
    assert History(healed).nonfinite == History(healed[::-1]).nonfinite == {}


def test_an_outcomes_metric_may_be_none_that_json_has() -> None:
    outcome = Outcome.of({"state": "succeeded", "metrics": {"loss": "-inf", "odd": "x"}})
    status = build_status("one", History(RIDE), RUNNING, outcome)
    assert status["metrics"] == {"loss": "-inf", "test_accuracy": 0.9}


NAMES = ("generation_formed", "resumed", "steps", "evaluated", "drain", "loss", "waiting", "x")
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
FIELDS = ("generation", "step", "first", "metrics", "member", "members", "cause", "seconds")


@given(
    st.lists(
        st.builds(
            lambda name, fields: event(name, 1.0, **fields),
            st.sampled_from(NAMES),
            st.dictionaries(st.sampled_from(FIELDS), JUNK),
        )
    )
)
def test_nothing_in_the_store_breaks_the_status(events: list[Event]) -> None:
    text = json.dumps(build_status("one", History(events), [], None), allow_nan=False)
    assert json.loads(text)["run"] == "one"


def test_an_attempt_that_the_others_do_not_reach_is_a_trouble_until_it_is_given_up() -> None:
    one, two = "1/workerpool0-0", "2/workerpool0-0"
    apart = event("unreachable", 9.0, member=two, peer=one, reason=f"{two} does not reach {one}: x")
    history = History([formed(1, 8.0, "start", [one]), apart])
    alive = [{"attempt": 1, "state": "RUNNING"}, {"attempt": 2, "state": "RUNNING"}]
    [line] = build_status("r", history, alive, None, now=10.0)["troubles"]
    assert line.startswith("attempt 2 is not let into the world") and line.endswith("[SW5011]")
    assert f"{two} does not reach {one}: x" in line and "psc_interface or network" in line
    left = [alive[0], {**alive[1], "left": "no way"}]
    assert build_status("r", history, left, None, now=10.0)["troubles"] == []
    over = Outcome("succeeded", "done", {})
    assert build_status("r", history, alive, over, now=10.0)["troubles"] == []
