"""Real traces of Spot capacity: how many VMs there were, sample by sample.

Two forms are read, by what the first line looks like:

- ``2021-12-11, 11:11:30, 55``: date, time, and the number of living VMs, as recorded on
  Google Cloud for Bamboo (uclasystem/bamboo).
- ``[60000, "add", {"nodes": ["node-7"]}]``: milliseconds, what happened, and to which nodes,
  as recorded on AWS for Parcae (JF-D/Parcae). ``add`` and ``remove`` change the set of living
  nodes; anything else (``no-op``, ``migration``) does not.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.rundir.usererror import UserError

FILE = "SW2211"  # there is no such trace, or it cannot be read
TRACE = "SW2212"  # a line is not what a trace has
LARGEST = 64 * 2**20  # bytes

Samples = list[tuple[float, int]]


class TraceError(UserError, ValueError):
    """A trace that cannot be read; one line with file, line and remedy."""


def read_trace(path: Path) -> Samples:
    """Returns ``(seconds since the first sample, VMs)`` of every sample, in order of time.

    Raises TraceError when the file cannot be read or is not a trace.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise TraceError(FILE, f"{path}: is larger than {LARGEST // 2**20} MiB")
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text in UTF-8"
        raise TraceError(FILE, f"{path}: {reason}; name a trace file") from None
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise TraceError(FILE, f"{path}: is empty; name a trace file")
    read = _changes if rows[0][1].startswith("[") else _counts
    samples = read(path, rows)
    for ((before, _), (after, _)), (number, _) in zip(pairwise(samples), rows[1:], strict=True):
        if after <= before:
            raise TraceError(TRACE, f"{path}:{number}: is not later than the line before")
    return [(moment - samples[0][0], count) for moment, count in samples]


def _counts(path: Path, rows: list[tuple[int, str]]) -> Samples:
    samples: Samples = []
    for number, line in rows:
        try:
            date, time, count = (part.strip() for part in line.split(","))
            # Differences are all that counts, so any zone does; UTC has no leaps in it.
            moment = datetime.fromisoformat(f"{date}T{time}+00:00").timestamp()
            samples.append((moment, _natural(int(count))))
        except ValueError:
            raise TraceError(
                TRACE,
                f"{path}:{number}: is not a sample; write date, time, number of VMs: "
                "2021-12-11, 11:11:30, 55",
            ) from None
    return samples


def _changes(path: Path, rows: list[tuple[int, str]]) -> Samples:
    samples: Samples = []
    living: set[str] = set()
    for number, line in rows:
        try:
            row: Any = json.loads(line)
            moment, change, nodes = row[0], row[1], [str(node) for node in row[2]["nodes"]]
            if isinstance(moment, bool) or not isinstance(moment, int | float):
                raise TypeError
            seconds = _natural(moment) / 1000
        except (ValueError, TypeError, LookupError, RecursionError):
            raise TraceError(
                TRACE,
                f"{path}:{number}: is not a change; write [milliseconds, add or remove, "
                '{"nodes": [names]}]',
            ) from None
        if change == "add":
            living.update(nodes)
        elif change == "remove":
            living.difference_update(nodes)
        samples.append((seconds, len(living)))
    return samples


def _natural(number: Any) -> Any:
    if not 0 <= number < 1e15:
        raise ValueError(number)
    return number
