"""What a simulated run takes, beside sums made by hand for markets of few changes."""

from __future__ import annotations

import pytest
from policy import MACHINE, job, waiting

from cloud import LEAD
from launcher.emulator.jobs.lifecycle import Survivors
from launcher.emulator.market.market import Capacity
from launcher.job.machines import MACHINES
from simulated_run import LONGEST, PAUSE, Result, simulate

HOUR = 3600.0
WORK = 20 * HOUR * 16  # machine-seconds


def run(jobs: int, survivors: str, *counts: tuple[float, int]) -> Result:
    """A run of 16 machines where there are so many from these seconds on."""
    capacity = Capacity({(None, MACHINE): list(counts)})
    it = job(jobs) if jobs > 1 else waiting()
    return simulate(it, WORK, capacity, Survivors(survivors), seed=0)


def took(result: Result) -> float:
    assert result.hours is not None
    return result.hours * HOUR


@pytest.mark.parametrize("jobs", [1, 2, 4, 8])
def test_with_all_its_machines_a_run_takes_its_work_and_their_start(jobs: int) -> None:
    result = run(jobs, "keep", (0.0, 16))
    price = MACHINES[MACHINE].spot
    assert price is not None
    assert took(result) == pytest.approx(LEAD + 20 * HOUR)
    assert result.trained == pytest.approx(20 * HOUR / (20 * HOUR + LEAD))
    assert result.usd == pytest.approx(16 * price.usd_per_hour * (20 * HOUR + LEAD) / HOUR)
    assert result.attempts == jobs


def test_a_job_whose_others_are_kept_goes_on_with_them() -> None:
    first, later = HOUR - LEAD, WORK / 15 - (HOUR - LEAD) * 16 / 15
    assert took(run(1, "keep", (0.0, 16), (HOUR, 15))) == pytest.approx(
        LEAD + first + PAUSE + later
    )


def test_a_job_that_restarts_takes_up_its_checkpoint_and_waits_for_all_machines() -> None:
    result = run(1, "restart", (0.0, 16), (HOUR + 100.0, 15), (2 * HOUR, 16))
    trained = HOUR - LEAD  # of which there is a checkpoint
    assert took(result) == pytest.approx(2 * HOUR + LEAD + 20 * HOUR - trained)
    assert result.trained * took(result) == pytest.approx(20 * HOUR + 100.0)


def test_a_job_that_fails_is_lost_where_there_are_not_enough_machines_for_another() -> None:
    result = run(1, "fail", (0.0, 16), (HOUR, 15))
    assert result.hours is None
    assert result.trained == pytest.approx((HOUR - LEAD) / LONGEST)
    assert result.usd == pytest.approx(16 * MACHINES[MACHINE].spot.usd_per_hour)  # type: ignore[union-attr]


def test_a_fleet_that_loses_a_job_loses_no_step() -> None:
    result = run(8, "fail", (0.0, 16), (HOUR + 100.0, 15))
    first = HOUR + 100.0 - LEAD
    assert took(result) == pytest.approx(LEAD + first + PAUSE + (WORK - first * 16) / 14)
    assert result.timeline[-1][1] == 14


def test_what_a_fleet_gets_back_trains_after_its_start() -> None:
    result = run(4, "fail", (0.0, 16), (HOUR, 15), (HOUR + 600.0, 16))
    twelve = (600.0 - PAUSE + LEAD) * 12
    rest = WORK - (HOUR - LEAD) * 16 - twelve
    last = (result.hours or 0.0) * HOUR - HOUR - 600.0 - LEAD - PAUSE
    assert last * 16 == pytest.approx(rest), "12 trained until the other four were ready"


def test_a_fleet_begins_with_the_jobs_that_have_machines() -> None:
    result = run(4, "fail", (0.0, 9))
    assert took(result) == pytest.approx(LEAD + WORK / 8)


def test_fewer_than_can_train_wait_with_a_checkpoint() -> None:
    result = run(8, "keep", (0.0, 16), (HOUR + 100.0, 3), (2 * HOUR, 0), (3 * HOUR, 16))
    trained = HOUR + 100.0 - LEAD
    assert took(result) == pytest.approx(3 * HOUR + LEAD + 20 * HOUR - trained)
