"""Which attempts a run goes on without."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.rundir import attempts
from trainer.rundir.attempts import GivenUp, given_up, record_name
from trainer.rundir.directory import RunDirectory


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


@pytest.mark.parametrize(
    ("record", "gone"),
    [
        ({"state": "RUNNING"}, False),
        ({"state": "RUNNING", "left": ""}, False),
        ({"state": "PENDING", "left": "it has had no machines"}, True),
        ({"state": "FAILED"}, True),
        ({"state": "LOST"}, True),
        ({}, False),
    ],
)
def test_an_attempt_is_given_up_when_it_is_left_or_over(
    run_dir: RunDirectory, record: dict[str, str], gone: bool
) -> None:
    run_dir.write_json(record_name(3), record)
    assert given_up(run_dir, 3) is gone
    assert not given_up(run_dir, 4), "a run without a launcher has no records"


def test_a_damaged_record_says_nothing(run_dir: RunDirectory) -> None:
    run_dir.store.write(record_name(3), b"[")
    assert not given_up(run_dir, 3)


def test_of_many_that_want_to_know_one_asks(
    run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def ask(*of: Any) -> bool:
        asked.append(of[1])
        return given_up(*of)

    monkeypatch.setattr(attempts, "given_up", ask)

    async def body() -> list[bool]:
        known = GivenUp(run_dir)
        return await asyncio.gather(*(known.includes(3) for _ in range(1000)))

    run_dir.write_json(record_name(3), {"state": "FAILED"})
    assert asyncio.run(body()) == [True] * 1000
    assert asked == [3]


def test_what_is_known_stays_so_while_the_store_is_away(
    run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ASK_AGAIN", 0.0)

    async def body() -> list[bool]:
        known, unknown = GivenUp(run_dir), GivenUp(run_dir)
        run_dir.write_json(record_name(3), {"state": "FAILED"})
        found = [await known.includes(3)]
        monkeypatch.setattr(attempts, "given_up", away)
        return [*found, await known.includes(3), await unknown.includes(3)]

    def away(*of: Any) -> bool:
        raise OSError(5, os.strerror(5))

    assert asyncio.run(body()) == [True, True, False]
