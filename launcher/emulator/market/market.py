"""The Spot market's decisions: who loses a VM, and who gets one. Pure.

There is one market for all jobs. It knows how many VMs of a machine type a region has
at any moment; jobs place bids. What is there goes to the oldest job first, and a job that
cannot have all it needs does not stand in the way of a later one. Which VMs are taken
when there are fewer is drawn by lot, from the seed and the moment alone.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.emulator.market.traces import Samples, read_trace
from launcher.job.marketfile import Market

Kind = tuple[str, str]  # region, machine type


class Capacity:
    """How many VMs of each kind there are over time; each count holds until the next.

    Args:
        entries: samples per machine type and region, None standing for every region that
            has no entry of its own. Each begins at 0 seconds.
    """

    def __init__(self, entries: Mapping[tuple[str | None, str], Samples]) -> None:
        self._moments = {key: [moment for moment, _ in it] for key, it in entries.items()}
        self._counts = {key: [count for _, count in it] for key, it in entries.items()}
        self._changes = sorted({moment for it in self._moments.values() for moment in it})

    def at(self, kind: Kind, moment: float) -> int | None:
        """The number of VMs ``moment`` seconds into the market; None when there is no limit."""
        region, machine = kind
        for key in ((region, machine), (None, machine)):
            if key in self._counts:
                index = bisect_right(self._moments[key], moment) - 1
                return self._counts[key][max(0, index)]
        return None

    def changes(self, after: float, until: float) -> list[float]:
        """The moments at which a count begins, later than ``after`` and up to ``until``."""
        low, high = (bisect_right(self._changes, moment) for moment in (after, until))
        return self._changes[low:high]

    def next_change(self, after: float) -> float | None:
        """The first such moment later than ``after``, if there is one."""
        index = bisect_right(self._changes, after)
        return self._changes[index] if index < len(self._changes) else None


def capacity_of(market: Market) -> Capacity:
    """Returns what the market file says, with its traces read. Raises TraceError."""
    return Capacity(
        {
            (entry.region, entry.machine): (
                read_trace(Path(entry.trace))
                if entry.trace
                else sorted((at.total_seconds(), count) for at, count in (entry.vms or {}).items())
            )
            for entry in market.capacity
        }
    )


@dataclass(frozen=True)
class Bid:
    """What one job has and wants.

    Args:
        job: its number in the order of creation.
        region: where it runs.
        machines: the machine type of each of its replicas.
        limited: whether its VMs come out of the market's capacity.
        takeable: whether the market may take them back.
        living: replicas whose VMs run or start.
        leaving: replicas whose VMs still run but have got a notice.
        wanted: replicas that wait for a VM.
        together: whether they need all of them or none.
    """

    job: int
    region: str
    machines: Mapping[str, str]
    limited: bool = True
    takeable: bool = True
    living: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    together: bool = False

    def kind(self, replica: str) -> Kind:
        """What kind of VM a replica needs."""
        return self.region, self.machines[replica]


@dataclass(frozen=True)
class Loss:
    """The market takes the VM of a job's replica."""

    job: int
    replica: str


@dataclass(frozen=True)
class Grant:
    """The market has VMs for some of a job's replicas."""

    job: int
    replicas: tuple[str, ...]


def losses(bids: Sequence[Bid], capacity: Capacity, moment: float, seed: int) -> list[Loss]:
    """Returns which VMs are taken at ``moment``: as many as there are too many of each kind."""
    living = _count(bids, leaving=False)
    taken: list[Loss] = []
    for kind in sorted(living):
        limit = capacity.at(kind, moment)
        if limit is None or living[kind] <= limit:
            continue
        takeable = sorted(
            (bid.job, replica)
            for bid in bids
            if bid.limited and bid.takeable
            for replica in bid.living
            if bid.kind(replica) == kind
        )
        # Of its own for each draw: who was taken before must not matter.
        lots = random.Random(f"{seed} {kind} {moment:.6f}")
        chosen = lots.sample(takeable, min(living[kind] - limit, len(takeable)))
        taken += [Loss(*each) for each in sorted(chosen)]
    return taken


def grants(bids: Sequence[Bid], capacity: Capacity, moment: float) -> list[Grant]:
    """Returns who gets VMs at ``moment``, the oldest job first."""
    used = _count(bids, leaving=True)
    given: list[Grant] = []

    def free(kind: Kind, count: int) -> bool:
        limit = capacity.at(kind, moment)
        return limit is None or used[kind] + count <= limit

    for bid in sorted(bids, key=lambda bid: bid.job):
        if bid.together or not bid.limited:
            need = Counter(map(bid.kind, bid.wanted)) if bid.limited else Counter[Kind]()
            names = bid.wanted if all(free(kind, count) for kind, count in need.items()) else ()
            used.update(need if names else ())
        else:
            names = ()
            for replica in bid.wanted:
                if free(kind := bid.kind(replica), 1):
                    names = (*names, replica)
                    used[kind] += 1
        if names:
            given.append(Grant(bid.job, tuple(names)))
    return given


def _count(bids: Iterable[Bid], leaving: bool) -> Counter[Kind]:
    """How many VMs of each kind the bids hold of the market's capacity."""
    return Counter(
        bid.kind(replica)
        for bid in bids
        if bid.limited
        for replica in (*bid.living, *(bid.leaving if leaving else ()))
    )
