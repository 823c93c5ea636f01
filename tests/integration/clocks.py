"""Processes on a machine whose clock somebody sets while they run, or that sleeps meanwhile.

They are real, and so is all that they wait for; what is set is the time of day that a Python
program is told, as the kernel would tell it. (To set the kernel's would set everybody's.)
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.command import Swell

# Python imports it at its start, from whatever folder of its path has it.
SITE = """
import datetime, time

def ahead():
    try:
        with open({told!r}) as file:
            return [float(one) for one in file.read().split()]
    except OSError:
        return [0.0, 0.0]

real, date, ticks = datetime.datetime, time.time, time.clock_gettime
time.time = lambda: date() + sum(ahead())
time.clock_gettime = lambda which: ticks(which) + (which == time.CLOCK_BOOTTIME) * ahead()[1]

class Kind(type):
    def __instancecheck__(cls, one):
        return isinstance(one, real)

class Date(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.fromtimestamp(time.time(), tz)

datetime.datetime = Date
"""


class MachinesClock:
    """The clock of all processes that a command starts, VMs and emulators too.

    Args:
        swell: the command. It is to be run with ``path``.
    """

    def __init__(self, swell: Swell) -> None:
        self._told = swell.folder / "clock"
        self._site = swell.folder / "site"
        self._site.mkdir()
        (self._site / "sitecustomize.py").write_text(SITE.format(told=str(self._told)))

    def path(self, without: str) -> str:
        """PYTHONPATH, from what it would be."""
        return os.pathsep.join([str(self._site), without])

    def set(self, by: float, slept: float = 0.0) -> None:
        """From now on it is off by so many seconds, and the machine has slept so many."""
        part = Path(f"{self._told}.part")
        part.write_text(f"{by} {slept}")
        part.replace(self._told)
