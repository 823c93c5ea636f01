"""Batches: events as they are written, and as they are read back.

A batch is ``events/<writer>/<number>.jsonl``: a first line that says its format, and which Swell
wrote it, and a line for each event. A writer numbers its batches from 0, without gaps, and a batch
never changes. Object stores cannot append, so there are many: see trainer.rundir.segments.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from trainer.rundir import formats
from trainer.rundir.names import EVENTS
from trainer.rundir.untrusted import parse_json

Event = dict[str, Any]

BATCH_LIMIT = 64 * 2**20  # bytes of one batch that a reader takes in
LINE_LIMIT = 8 * 2**20  # bytes of one event

_FILE = re.compile(r"([^/]+)/([0-9]{6,12})\.jsonl")


class Batch(NamedTuple):
    """Which one it is: its writer, and its number there."""

    writer: str
    number: int

    @property
    def name(self) -> str:
        """Its name in the run directory."""
        return f"{EVENTS}/{self.writer}/{self.number:06d}.jsonl"

    @classmethod
    def of(cls, file: str) -> Batch | None:
        """The batch that a file inside ``events/`` is; None if it is none."""
        found = _FILE.fullmatch(file)
        return cls(found[1], int(found[2])) if found else None


def encode(lines: Iterable[str], first: dict[str, Any] | None = None) -> bytes:
    """Returns lines as a file, whose first line is ``first``, by default a batch's."""
    head = formats.EVENTS.stamp() if first is None else first
    return ("\n".join([json.dumps(head), *lines]) + "\n").encode()


def parse(data: bytes) -> Iterator[Event]:
    """Yields the events in a batch, in today's form; what is none is passed over."""
    for line in data.splitlines():
        if (event := parse_event(line)) is not None:
            yield event


def parse_event(line: bytes) -> Event | None:
    """Returns the event that a line is: a JSON object with ``event`` and ``time``."""
    if len(line) > LINE_LIMIT:
        return None
    try:
        event = parse_json(line)
    except ValueError:
        return None
    if (
        isinstance(event, dict)
        and isinstance(event.get("event"), str)
        and isinstance(event.get("time"), int | float)
        and math.isfinite(event["time"])  # else nothing could be put in order
    ):
        return _upgraded(event)
    return None


def newer(data: bytes, where: str) -> formats.FormatError | None:
    """Returns why a batch cannot be read: it is of a newer format. A damaged one is not.

    Args:
        data: the batch.
        where: whose it is, for the error.
    """
    line, _, _ = data[:LINE_LIMIT].partition(b"\n")
    try:
        head = parse_json(line)
        if isinstance(head, dict) and "event" not in head:
            formats.EVENTS.found(head, where)
    except formats.FormatError as error:
        return error
    except ValueError:
        return None
    return None


def unreadable(data: bytes, error: formats.FormatError) -> Event:
    """What is known of a batch of a newer format: that there is one, and when it began."""
    times = [event["time"] for event in parse(data)]
    return {"event": "unreadable", "time": min(times, default=0.0), "reason": str(error)}


def _upgraded(event: Event) -> Event:
    """An event that an older version wrote, in the form of this one."""
    if event["event"] == "leader_changed" and "epoch" in event:
        event["term"] = event.pop("epoch")
    return event
