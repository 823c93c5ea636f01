"""Reads what the jobs' stamps tell about steps and worlds (see jobs/mlp.py)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Stamp:
    """One step that one process had applied.

    Attributes:
        time: Unix seconds.
        cpu: seconds of processor time that the process had used.
        host: the name of the host.
        pid: the process, unique among a folder's stamps together with the host.
        world: differs between the worlds that this process has been in.
        size: of the world.
        step: steps completed.
    """

    time: float
    cpu: float
    host: str
    pid: int
    world: str
    size: int
    step: int

    @property
    def membership(self) -> tuple[str, int, str]:
        """One process in one world."""
        return self.host, self.pid, self.world


@dataclass(frozen=True)
class Recovery:
    """What an event did to training.

    Attributes:
        seconds: from the event to the first step that another world completed.
        pause: from the last step of the old world to the first one of the new.
        lost: steps that had been completed, and were done again or not at all.
    """

    seconds: float
    pause: float
    lost: int


def read_stamps(folder: Path) -> list[Stamp]:
    """All stamps in ``folder``, in order of time."""
    found: list[Stamp] = []
    for file in folder.iterdir():
        host, _, pid = file.name.rpartition("-")
        whole, _, _ = file.read_text().rpartition("\n")  # the last line may be in the making
        for line in whole.splitlines():
            time, cpu, world, size, step = line.split()
            found.append(
                Stamp(float(time), float(cpu), host, int(pid), world, int(size), int(step))
            )
    return sorted(found, key=lambda one: one.time)


def recovery(stamps: list[Stamp], event: float) -> Recovery | None:
    """What happened to training at the time ``event``; None while there is no other world."""
    before = {one.membership for one in stamps if one.time <= event}
    old = [one for one in stamps if one.membership in before]
    new = [one for one in stamps if one.membership not in before]
    if not old or not new:
        return None
    first = new[0]
    earlier = [one for one in old if one.time <= first.time]
    lost = max(one.step for one in earlier) - (first.step - 1)
    return Recovery(first.time - event, first.time - earlier[-1].time, max(0, lost))


def step_times(stamps: list[Stamp], skip: int) -> tuple[list[float], list[float]]:
    """Seconds, and seconds of processor time, of each step of the first process that stamped.

    The first ``skip`` steps are left out.
    """
    one = [stamp for stamp in stamps if stamp.pid == stamps[0].pid][skip:]
    pairs = list(pairwise(one))
    return [b.time - a.time for a, b in pairs], [b.cpu - a.cpu for a, b in pairs]
