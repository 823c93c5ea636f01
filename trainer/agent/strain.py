"""Why a worker's process is slow, as far as its machine can tell: what keeps it from computing.

Two readings some seconds apart say for what part of the time the process was held back, and by
what. What the numbers mean: proc(5), cgroups(7), Documentation/accounting/psi.rst of Linux.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

WATCHED = 3.0  # seconds between two readings
LOOK_EVERY = 0.02  # seconds between two looks whether a signal has stopped the process
LEAST = 0.1  # the part of the time from which on something is a cause
RIVAL = 0.2  # of a processor, that another process takes, from which on it has a name
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Reading:
    """Counters of one moment; all in seconds since something, but for the processes' names.

    Attributes:
        at: when.
        ran, queued: for how long the process's first thread ran, and waited for a processor.
        throttled: for how long its group was held back by a limit on its processor time.
        stolen, ticks: of the machine's processors: taken by its host, and in all.
        memory: for how long something on the machine waited for memory.
        others: processor time of each process that is not of this run, with its name, by id.
    """

    at: float
    ran: float = 0.0
    queued: float = 0.0
    throttled: float = 0.0
    stolen: float = 0.0
    ticks: float = 0.0
    memory: float = 0.0
    others: Mapping[int, tuple[str, float]] = field(default_factory=dict)


def why(before: Reading, after: Reading, stopped: float = 0.0) -> str:
    """What held the process back between two readings, in words; "" if nothing did.

    Args:
        before, after: the readings.
        stopped: the part of the time for which a signal had stopped it, from 0 to 1.
    """
    took = max(after.at - before.at, 1e-9)
    ticks = max(after.ticks - before.ticks, 1e-9)
    throttled = (after.throttled - before.throttled) / took
    stolen = (after.stolen - before.stolen) / ticks
    queued = (after.queued - before.queued) / took
    memory = (after.memory - before.memory) / took
    parts = [
        (stopped, "a signal stops its process for {} of the time"),
        (throttled, "a limit on its processor time holds its processes back for {} of the time"),
        (stolen, "its host takes {} of its machine's processor time"),
        (memory, "its machine waits for memory for {} of the time"),
    ]
    told = [text.format(f"{min(part, 1.0):.0%}") for part, text in parts if part >= LEAST]
    # Who is throttled or stolen from waits for a processor, too: that is the same once more.
    if queued >= LEAST and not any(part >= LEAST for part in (throttled, stolen)):
        whose = _rival(before, after, took)
        told.append(f"it waits for a processor for {min(queued, 1.0):.0%} of the time{whose}")
    return "; ".join(told)


def watch(pid: int, own: set[int], clock: Callable[[], float] = time.monotonic) -> str:
    """Watches a process for WATCHED seconds. Returns what holds it back, in words; "" if nothing.

    Args:
        pid: the process.
        own: processes of this run, which are no rivals.
        clock: monotonic seconds.
    """
    before, looks, stopped = read(pid, own, clock()), 0, 0
    while clock() - before.at < WATCHED:
        looks += 1
        stopped += _is_stopped(pid)
        time.sleep(LOOK_EVERY)
    return why(before, read(pid, own, clock()), stopped / max(looks, 1))


def read(pid: int, own: set[int], now: float) -> Reading:
    """The counters of a process and of its machine; what cannot be read is 0."""
    ran, queued = _schedule(pid)
    stolen, ticks = _stolen()
    others = dict(_others(own))
    return Reading(now, ran, queued, _throttled(pid), stolen, ticks, _memory(), others)


def _rival(before: Reading, after: Reading, took: float) -> str:
    """Who else takes the processors, if anybody does."""
    used = {
        pid: seconds - before.others[pid][1]
        for pid, (name, seconds) in after.others.items()
        if pid in before.others
    }
    most = max(used, key=lambda pid: used[pid], default=None)
    if most is None or used[most] / took < RIVAL:
        return ""
    return f", while {after.others[most][0]} ({most}) takes {used[most] / took:.0%} of one"


def _schedule(pid: int) -> tuple[float, float]:
    with suppress(OSError, ValueError, IndexError):
        ran, queued = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[:2]
        return int(ran) / 1e9, int(queued) / 1e9
    return 0.0, 0.0


def _is_stopped(pid: int) -> bool:
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] in ("T", "t")
    return False


def _throttled(pid: int) -> float:
    """Of the process's group and those around it, the one that was held back the longest."""
    most = 0.0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                roots = [_CGROUPS, _CGROUPS / "unified"]
            elif "cpu" in controllers.split(","):
                roots = [_CGROUPS / name for name in ("cpu", "cpu,cpuacct")]
            else:
                continue
            for root in roots:
                groups = [root / path.strip("/"), *(root / path.strip("/")).parents]
                for group in groups:
                    if group.is_relative_to(root):
                        most = max(most, _throttled_of(group / "cpu.stat"))
    return most


def _throttled_of(file: Path) -> float:
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "throttled_usec":  # version 2
                return int(value) / 1e6
            if name == "throttled_time":  # version 1, in nanoseconds
                return int(value) / 1e9
    return 0.0


def _stolen() -> tuple[float, float]:
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(one) for one in file.readline().split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
        return ticks[7] / per_second, sum(ticks) / per_second
    return 0.0, 0.0


def _memory() -> float:
    with suppress(OSError, ValueError, IndexError):
        some = Path("/proc/pressure/memory").read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    return 0.0


def _others(own: set[int]) -> Iterator[tuple[int, tuple[str, float]]]:
    per_second = os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) in own:
            continue
        with suppress(OSError, ValueError, IndexError):
            head, _, rest = (entry / "stat").read_text().rpartition(")")
            times = rest.split()
            name = "".join(c if c.isprintable() else "?" for c in head.partition("(")[2])
            yield int(entry.name), (name, (int(times[11]) + int(times[12])) / per_second)
