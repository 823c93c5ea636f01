"""What the trainer reads of run.json."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.agent.settings import Settings

TASK = "trainer.tasks.digits:Digits"


def of(**settings: Any) -> Settings:
    return Settings.of_run({"id": "r1", "settings": {"task": TASK, **settings}})


def test_what_is_left_out_has_a_default() -> None:
    assert of() == Settings(TASK)


def test_everything_can_be_set() -> None:
    values = {
        "task_args": {"epochs": 3},
        "min_workers": 2,
        "max_workers": 8,
        "start_wait": 5.0,
        "hold_off": 0.5,
        "heartbeat": 0.25,
        "suspicion": 4.0,
        "hang": 20.0,
        "stall": 1200.0,
        "spares": 0,
        "checkpoint_every": 600.0,
        "checkpoint_keep": 5,
        "audit": True,
    }
    settings = of(**values)
    assert {name: getattr(settings, name) for name in values} == values


def test_the_limits_of_membership_follow() -> None:
    limits = of(min_workers=2, max_workers=8, start_wait=5.0, hold_off=0.5).limits()
    assert (limits.min_workers, limits.max_workers) == (2, 8)
    assert (limits.start_wait, limits.hold_off) == (5.0, 0.5)


@pytest.mark.parametrize("suspicion", [0.6, 2.0, 20.0, 100.0])
def test_any_suspicion_makes_limits_that_agree(suspicion: float) -> None:
    limits = of(suspicion=suspicion).limits()
    assert limits.suspicion == suspicion <= limits.idle_suspicion
    assert limits.timeouts(0.0).hang > suspicion


def test_a_lease_is_shorter_where_the_store_answers_at_once() -> None:
    local, remote = of().limits(local=True), of().limits(local=False)
    assert (local.lease_timeout, local.lease_renew) == (5.0, 0.5)
    assert (remote.lease_timeout, remote.lease_renew) == (10.0, 1.25)
    chosen = of(lease_timeout=30.0)
    assert chosen.limits(local=True).lease_timeout == chosen.limits(local=False).lease_timeout == 30


def test_a_lease_that_an_object_store_could_not_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="lease_timeout 3 s must be longer than lease_doubt"):
        of(lease_timeout=3.0)


@pytest.mark.parametrize("run", [{}, {"settings": None}, {"settings": []}, {"settings": "x"}])
def test_a_run_without_settings_is_refused(run: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"run\.json has no settings"):
        Settings.of_run(run)


def test_a_setting_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match=r"\['momentum', 'wings'\]"):
        of(wings=2, momentum=0.9)


def test_a_task_is_needed() -> None:
    with pytest.raises(ValueError, match="task"):
        Settings.of_run({"settings": {}})


@pytest.mark.parametrize("heartbeat, suspicion", [(2.0, 2.0), (3.0, 2.0), (0.0, 2.0), (-1.0, 2.0)])
def test_a_heartbeat_must_be_shorter_than_suspicion(heartbeat: float, suspicion: float) -> None:
    with pytest.raises(ValueError, match="must be shorter than suspicion"):
        of(heartbeat=heartbeat, suspicion=suspicion)


@pytest.mark.parametrize(
    "name, value",
    [
        ("heartbeat", "0.5s"),
        ("heartbeat", None),
        ("heartbeat", []),
        ("heartbeat", True),
        ("min_workers", 1.5),
        ("task", 7),
        ("script", 1.0),
        ("code_requirements", 1.5),
        ("task_args", []),
        ("audit", 1),
        ("args", {}),
        ("args", ["a", 1]),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"run\.json's {name} (is|are) not "):
        of(**{name: value})
