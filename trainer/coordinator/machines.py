"""What the machines of a run do, gathered: one object every few minutes, however many they are.

Every agent says every ten seconds what its machine does (trainer.telemetry.machine). The leader
keeps that for GATHERED seconds, and writes it as one file: ``machines/000007-000012.jsonl.gz``, of
term 7, the twelfth. It has a line for each machine, and in it a list for each figure::

    {"member": "workerpool1-0", "time": [1764000000, …], "cpu": [0.31, …], "gpu0_used": [0.97, …]}

So a run of any size writes 3600 / GATHERED objects an hour, and one for each leader that ends.
Times are those of the leader's clock, at which a sample came in.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trainer.protocol import swell_pb2 as pb
from trainer.rundir.names import MACHINES
from trainer.rundir.xids import xid_in_words
from trainer.telemetry.machine import plain

GATHERED = 300.0  # seconds
_GPU = ("used", "memory", "temperature", "clock", "power", "held_back", "links_down", "xid")
_OWN = ("cpu", "memory", "disk", "read", "written", "received", "sent")
GPUS = 16  # of one machine, at most
MOST = 120  # samples of one machine in one file: four times as many as there should be


@dataclass
class Series:
    """The samples of one machine: as many of each figure as there are times."""

    times: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)


class Machines:
    """Gathers samples. Pure.

    Args:
        term: the leader's.
        now: monotonic seconds, when it begins.
    """

    def __init__(self, term: int, now: float) -> None:
        self._term = term
        self._since = now
        self._number = 0
        self._series: dict[str, Series] = {}
        self._xids: dict[tuple[str, int], int] = {}  # by machine and GPU: the newest

    def errors(self, member: str, told: pb.Machine) -> Iterator[str]:
        """Yields what is new of critical errors of a machine's GPUs, in words."""
        for index, gpu in enumerate(told.gpus[:GPUS]):
            if gpu.xid != self._xids.get((member, index), 0):
                self._xids[member, index] = gpu.xid
                if gpu.xid:
                    yield xid_in_words(index, gpu.xid)

    def take(self, member: str, told: pb.Machine, time: float) -> None:
        """A machine has said what it does, at ``time`` in Unix seconds."""
        series = self._series.setdefault(member, Series())
        if len(series.times) >= MOST:
            return
        series.times.append(round(time, 1))
        for name, value in figures_of(told).items():
            known = series.figures.setdefault(name, [0.0] * (len(series.times) - 1))
            known.append(value)
        for values in series.figures.values():  # a GPU that says nothing any more
            values.extend([0.0] * (len(series.times) - len(values)))

    def due(self, now: float) -> bool:
        """Whether it is time to write what was gathered."""
        return now - self._since >= GATHERED

    def gathered(self, now: float) -> Gathered | None:
        """What was gathered since the last file, for the next; None if that is nothing."""
        self._since = now
        series, self._series = self._series, {}
        if not series:
            return None
        self._number += 1
        return Gathered(f"{MACHINES}/{self._term:06d}-{self._number:06d}.jsonl.gz", series)


@dataclass(frozen=True)
class Gathered:
    """What is in one file.

    Attributes:
        name: the file's, in the run directory.
        series: by machine.
    """

    name: str
    series: Mapping[str, Series]

    def encode(self) -> bytes:
        """The file's content. Of a thousand machines it takes a moment."""
        lines = (
            json.dumps({"member": member, "time": one.times, **one.figures}, separators=(",", ":"))
            for member, one in sorted(self.series.items())
        )
        return gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)


def figures_of(told: pb.Machine) -> Mapping[str, float]:
    """A sample as named figures, in few digits; those of GPUs begin with which one it is."""
    found = {name: plain(getattr(told, name)) for name in _OWN}
    for index, gpu in enumerate(told.gpus[:GPUS]):
        found |= {f"gpu{index}_{name}": plain(getattr(gpu, name)) for name in _GPU}
    return found
