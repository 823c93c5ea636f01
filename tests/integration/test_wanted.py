"""A fleet is asked to be another while it trains: the new jobs train before the old ones go."""

from __future__ import annotations

import pytest

from tests.integration.command import Swell
from tests.integration.test_elastic_run import check_nothing_lost, undisturbed
from tests.integration.test_fleet import ONE, Fleet

__all__ = ["undisturbed"]  # a fixture


def ask(swell: Swell, *command: str) -> None:
    asked = swell(*command)
    assert asked.returncode == 0, asked.stdout + asked.stderr


def check_that_nobody_was_lost(run: Fleet) -> None:
    causes = {event["cause"] for event in run.events if event["event"] == "generation_formed"}
    assert causes <= {"start", "grow", "drain", "leader"}


def test_a_run_moves_to_another_region_and_grows_without_losing_a_step(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(swell, fleet=1, regions=["us-central1"], market={}, slowly=True)
    run.until(lambda: run.worlds() and run.step() > 3)
    ask(swell, "move", "fleet", "--region", "us-east1")
    run.until(lambda: run.ended() == {1})
    moved = run.jobs()
    ask(swell, "resize", "fleet", "--jobs", "2")
    run.until(lambda: run.jobs() == [2, 3])
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    assert moved == [2]
    regions = [attempt["region"] for attempt in status["attempts"]]
    assert regions == ["us-central1", "us-east1", "us-east1"]
    assert [attempt["kind"] for attempt in status["attempts"]] == ["replaced", "", ""]


@pytest.mark.soak
def test_a_fleet_of_several_jobs_moves_and_shrinks_with_its_leader(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(swell, fleet=3, pools=ONE * 2, regions=["us-central1"], market={}, slowly=True)
    run.until(lambda: run.worlds() and run.worlds()[-1][0] == 6)
    ask(swell, "move", "fleet", "--region", "us-east4", "--machine", "a2-ultragpu-1g")
    run.until(lambda: run.ended() == {1, 2, 3})
    moved = run.jobs()
    ask(swell, "resize", "fleet", "--jobs", "1")
    run.until(lambda: len(run.ended()) == 5 and len(run.jobs()) == 1)
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    assert moved == [4, 5, 6]
    choices = [attempt["choice"] for attempt in status["attempts"]]
    assert choices[3:] == ["2 x a2-ultragpu-1g, spot, us-east4"] * 3
    kinds = [attempt["kind"] for attempt in status["attempts"]]
    assert kinds.count("replaced") == 5 and run.leading_job() == run.jobs()[0]


@pytest.mark.soak
def test_a_run_outlives_the_timeout_of_each_of_its_jobs(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(swell, fleet=1, timeout="60s", regions=["us-central1"], market={}, slowly=True)
    run.until(lambda: len(run.ended()) == 3)
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    assert {attempt["kind"] for attempt in status["attempts"][:-1]} == {"replaced"}
