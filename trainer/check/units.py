"""``python -m trainer.check.units TASK``: how a task's batch is cut, for ``swell plan --units``.

The task is made and nothing of it is computed, so a task that decides by itself whether it needs
units (see trainer.engine.units) cannot say so here. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from trainer.check.check import made, no_task
from trainer.engine.units import cuts, default_unit, idle
from trainer.task import Task


@dataclass(frozen=True)
class Units:
    """How the batch of a task is cut.

    Attributes:
        batch: samples of a step.
        unit: samples of a unit; 0 where there are none.
        count: how many units a step has.
        decided: whether it is certain that the task is computed by units.
        waits: by the number of workers, the part of a step's time that they wait because units do
            not divide; only where they do.
    """

    batch: int
    unit: int
    count: int
    decided: bool
    waits: dict[int, float]


def units_of(task: Task, sizes: Iterable[int]) -> Units:
    """How the batch of ``task`` is cut, for worlds of so many workers."""
    batch, asked = task.global_batch, task.unit
    unit = default_unit(batch, task.micro_batch) if asked is None else asked
    count = len(cuts(0, batch, unit)) - 1 if unit else 0
    waits = {size: idle(count, size) for size in sizes} if unit else {}
    decided = asked is not None or bool(task.compile)
    return Units(batch, unit, count, decided, {size: part for size, part in waits.items() if part})


def main() -> int:
    """Prints it for the task that the command line names. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="swell plan --units", add_help=False)
    parser.add_argument("task")
    parser.add_argument("--args", type=json.loads, default={})
    parser.add_argument("--sizes", type=json.loads, default=[])
    given = parser.parse_args()
    try:
        task = made(given.task, given.args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(no_task(given.task, error), file=sys.stderr)
        return 2
    print(json.dumps(asdict(units_of(task, given.sizes))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
