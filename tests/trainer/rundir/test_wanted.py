"""What a fleet is asked to be: versions in the run directory, each created by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from trainer.rundir.directory import RunDirectory
from trainer.rundir.wanted import Wanted, create_wanted, name_of, newest_wanted

FIRST = Wanted(1, 4, "us-east4", "", "spot", (1,), (4,), (2, 3), 64, "me@here", 9.5)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def test_a_run_of_which_nobody_has_asked_anything_has_none(run_dir: RunDirectory) -> None:
    assert newest_wanted(run_dir) is None
    launched = Wanted(jobs=2, at=1.0)
    assert newest_wanted(run_dir, launched) is launched


def test_the_highest_version_counts_and_is_found_from_any_that_is_known(
    run_dir: RunDirectory,
) -> None:
    versions = [replace(FIRST, version=version, jobs=version) for version in (1, 2, 3)]
    assert all(create_wanted(run_dir, one) for one in versions)
    assert newest_wanted(run_dir) == newest_wanted(run_dir, versions[1]) == versions[-1]


def test_of_many_who_ask_at_the_same_time_one_makes_the_version(run_dir: RunDirectory) -> None:
    made: list[int] = []

    def ask(jobs: int) -> None:
        if create_wanted(run_dir, replace(FIRST, jobs=jobs)):
            made.append(jobs)

    threads = [Thread(target=ask, args=(jobs,)) for jobs in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = newest_wanted(run_dir)
    assert found is not None and [found.jobs] == made


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": 0},
        {"jobs": True},
        {"jobs": "4"},
        {"max_workers": -1},
        {"region": None},
        {"by": 7},
        {"renew": 3},
        {"dear": {}},
        {"leave": ["1"]},
        {"at": "now"},
    ],
)
def test_what_is_no_version_counts_as_absent_and_so_does_what_follows(
    run_dir: RunDirectory, change: dict[str, Any]
) -> None:
    create_wanted(run_dir, FIRST)
    run_dir.write_json(name_of(2), {**FIRST.to_json(), **change})
    create_wanted(run_dir, replace(FIRST, version=3))
    assert newest_wanted(run_dir) == FIRST


def test_a_damaged_file_counts_as_absent(run_dir: RunDirectory) -> None:
    run_dir.store.write(name_of(1), b'{"jobs": ')
    assert newest_wanted(run_dir) is None


def test_fields_of_another_version_of_swell_are_passed_over(run_dir: RunDirectory) -> None:
    run_dir.write_json(name_of(1), {"jobs": 3, "colour": "red"})
    assert newest_wanted(run_dir) == Wanted(1, jobs=3)
