"""The clock by which what happens to a run is dated.

Dates on record are subtracted from one another: how long an attempt has run, how long a pause was.
So a process looks at this machine's clock once, and counts on by itself: when somebody sets the
clock, or a time server does, an hour is neither made nor lost, a limit not reached, and nobody
waits for an hour to come back. Time in which the machine slept counts, for the run went on
elsewhere.

Clocks of different machines, and of processes that were started before and after, are not compared
to the second anywhere; a date that people give (``limits.deadline``) is one of this clock, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

# Where it is unknown, the monotonic clock does count what the machine sleeps (macOS).
BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
TRIES = 5
STARTED = 19  # among the fields of proc(5)'s stat after the command: in ticks since boot


def since_boot() -> float:
    """Seconds since this machine was started, those in which it slept included."""
    return time.clock_gettime(BOOT_CLOCK)


def lived() -> float:
    """Seconds for which this process has lived; 0 where the system does not say."""
    try:
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2]
        began = float(stat.split()[STARTED]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, since_boot() - began)


def steady_clock(
    date: Callable[[], float] = time.time, ticks: Callable[[], float] = since_boot
) -> Callable[[], float]:
    """Returns a clock of Unix seconds that nobody sets.

    Args:
        date: Unix seconds, asked now.
        ticks: seconds since whenever; they pass alike.
    """
    # Both at the same moment: who is interrupted in between asks again.
    ahead = max(date() - ticks() for _ in range(TRIES))
    return lambda: ahead + ticks()


now = steady_clock()  # this process's
