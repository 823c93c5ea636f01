"""Whose turn it is: tests that take long come first, and each worker of pytest has its share.

A worker that begins a test of a minute when the others have done theirs has the machine for itself
that long. So at the beginning what takes long is dealt out, and what the workers take from one
another at the end is short. Wrong figures here cost time, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

# Seconds that each test of a file takes, where that is many: see `pytest --durations=0`.
SECONDS = {
    "tests/chaos/test_hangs.py": 20,
    "tests/chaos/test_hostile_peers.py": 30,
    "tests/chaos/test_scenarios.py": 50,
    "tests/chaos/test_storm.py": 30,
    "tests/integration/test_checkpoints.py": 30,
    "tests/integration/test_code.py": 10,
    "tests/integration/test_controller.py": 35,
    "tests/integration/test_elastic_run.py": 15,
    "tests/integration/test_faults.py": 30,
    "tests/integration/test_figures.py": 60,
    "tests/integration/test_fleet.py": 30,
    "tests/integration/test_kills.py": 40,
    "tests/integration/test_machine.py": 10,
    "tests/integration/test_nonfinite.py": 10,
    "tests/integration/test_outlived.py": 10,
    "tests/integration/test_scripts.py": 20,
    "tests/integration/test_torchrun.py": 30,
    "tests/integration/test_whole_runs.py": 12,
    "tests/launcher/emulator/vms/test_interpreter.py": 10,
    "tests/trainer/tasks/test_finetune.py": 3,
}
# Their tests share something that takes long to make.
WHOLE = frozenset({"tests/integration/test_checkpoints.py", "tests/trainer/tasks/test_finetune.py"})

_T = TypeVar("_T")


def in_turn(tests: Sequence[_T], file_of: Callable[[_T], str], workers: int) -> list[_T]:
    """Returns the tests in an order of which each worker begins with a part, one after another.

    As many workers as there are get parts of equal length (pytest-xdist, ``--dist worksteal``).

    Args:
        tests: in the order of their files.
        file_of: the path of a test's file.
        workers: how many workers there are.
    """
    long: list[tuple[float, list[_T]]] = []
    short: list[_T] = []
    for file, group in groupby(tests, file_of):
        found = list(group)
        if file not in SECONDS:
            short += found
        elif file in WHOLE:
            long.append((SECONDS[file] * len(found), found))
        else:
            long += [(SECONDS[file], [one]) for one in found]
    parts: list[list[_T]] = [[] for _ in range(workers)]
    rooms = [(len(tests) + index) // workers for index in range(workers)]
    busy = [0.0] * workers
    for seconds, together in sorted(long, key=lambda one: one[0], reverse=True):
        free = [index for index in range(workers) if len(parts[index]) < rooms[index]]
        least = min(free, key=lambda index: busy[index])
        parts[least] += together
        busy[least] += seconds
    return [one for part in _filled(parts, rooms, short) for one in part]


def _filled(parts: list[list[_T]], rooms: list[int], rest: list[_T]) -> list[list[_T]]:
    """The parts with the rest, in its order, as far as each has room."""
    begin = 0
    filled = []
    for part, room in zip(parts, rooms, strict=True):
        end = begin + max(0, room - len(part))
        filled.append(part + rest[begin:end])
        begin = end
    filled[-1] += rest[begin:]
    return filled
