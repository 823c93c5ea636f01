"""The order of tests, and where pytest-xdist cuts it into parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.turns import SECONDS, WHOLE, in_turn

ROOT = Path(__file__).parents[1]
LONG = "tests/chaos/test_scenarios.py"
SHARED = "tests/integration/test_checkpoints.py"
TESTS = [
    *((LONG, number) for number in range(3)),
    *((SHARED, number) for number in range(4)),
    *(("tests/any.py", number) for number in range(40)),
]


def parts(workers: int) -> list[list[tuple[str, int]]]:
    """What each worker is given at first."""
    order = in_turn(TESTS, lambda test: test[0], workers)
    assert sorted(order) == sorted(TESTS)
    found = []
    for left in range(workers, 0, -1):
        count = len(order) // left
        found.append(order[:count])
        order = order[count:]
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
def test_each_worker_begins_with_its_share_of_what_takes_long(workers: int) -> None:
    found = parts(workers)
    for part in found:
        takes_long = [file in SECONDS for file, _ in part]
        assert takes_long == sorted(takes_long, reverse=True)
    assert sum(any(file == SHARED for file, _ in part) for part in found) == 1
    busy = [sum(SECONDS.get(file, 0) for file, _ in part) for part in found]
    assert max(busy) - min(busy) <= 4 * SECONDS[SHARED]


def test_the_rest_stays_in_its_order() -> None:
    rest = [test for part in parts(3) for test in part if test[0] not in SECONDS]
    assert rest == [test for test in TESTS if test[0] not in SECONDS]


def test_every_file_is_there() -> None:
    assert all((ROOT / file).is_file() for file in SECONDS)
    assert SHARED in WHOLE and SECONDS.keys() >= WHOLE
