"""How a task's batch is cut, and who waits for it: what ``swell plan --units`` asks a task."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.check.mistakes import Sound
from trainer.check.units import Units, units_of


def cut(sizes: range, **settings: Any) -> Units:
    task = Sound()
    for name, value in settings.items():
        setattr(task, name, value)
    return units_of(task, sizes)


def test_of_8_units_5_workers_wait_for_a_fifth_of_the_time() -> None:
    found = cut(range(1, 9), global_batch=64, unit=8)
    assert (found.batch, found.unit, found.count, found.decided) == (64, 8, 8, True)
    # The busiest worker computes 3 units where there are 3, 2 where there are 5 to 7.
    assert found.waits == pytest.approx({3: 1 - 8 / 9, 5: 1 - 8 / 10, 6: 1 - 8 / 12, 7: 1 - 8 / 14})


def test_workers_without_a_unit_wait_all_the_time() -> None:
    found = cut(range(10, 11), global_batch=64, unit=8)
    assert found.waits == pytest.approx({10: 0.2})


@pytest.mark.parametrize(
    "settings, unit, count, decided",
    [
        ({"unit": None, "micro_batch": None}, 8, 8, False),
        ({"unit": None, "micro_batch": 16}, 16, 4, False),
        ({"unit": None, "micro_batch": None, "compile": True}, 8, 8, True),
        ({"unit": 0}, 0, 0, True),
    ],
    ids=["by itself", "as micro-batches", "compiled", "none"],
)
def test_what_a_task_that_names_no_unit_has(
    settings: dict[str, Any], unit: int, count: int, decided: bool
) -> None:
    found = cut(range(1, 3), global_batch=64, **settings)
    assert (found.unit, found.count, found.decided) == (unit, count, decided)
    assert found.waits == {}


def test_units_are_counted_as_steps_cut_them() -> None:
    assert cut(range(0), global_batch=3, unit=2).count == 1, "no unit of a single sample"
    assert cut(range(0), global_batch=10, unit=4).count == 3
