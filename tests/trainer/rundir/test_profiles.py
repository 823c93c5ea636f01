"""What somebody wants to see of a run in detail, as the run directory has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.rundir.directory import RunDirectory
from trainer.rundir.profiles import Wish, create_wish, find_wish, name_of

WISH = Wish(1, first=100, last=110, ranks=(0, 3), memory=True, by="me@here", at=5.0)


def test_a_wish_is_read_as_it_was_written(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    assert find_wish(run_dir, 1) is None
    assert create_wish(run_dir, WISH) == WISH
    assert find_wish(run_dir, 1) == WISH


def test_two_who_ask_at_a_time_have_two_wishes(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    assert [create_wish(run_dir, WISH).number for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0},
        {"first": 111},
        {"last": 200},
        {"first": "100"},
        {"last": None},
        {"ranks": []},
        {"ranks": [-1]},
        {"ranks": [True]},
        {"ranks": list(range(17))},
        {"ranks": 3},
        {"memory": 1},
    ],
)
def test_what_nobody_asks_for_is_no_wish(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run_dir = RunDirectory(str(tmp_path))
    run_dir.write_json(name_of(1), {**WISH.to_json(), **wrong})
    with pytest.raises(ValueError, match="is no wish"):
        find_wish(run_dir, 1)
