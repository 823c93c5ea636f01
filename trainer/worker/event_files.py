"""How far a torchrun script is, from the TensorBoard event files that it writes.

Only what a process adds is read: files that are there when it starts are those of earlier ones. A
file is a row of records, each with its length before it; that of the last one may be incomplete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trainer.worker.reports import METRICS_LIMIT, Report

TENSORBOARD = "tensorboard"  # in the job file, in place of a pattern
PROTO = "tensorboard.compat.proto.event_pb2"  # what is needed to read a record
RECORD_LIMIT = 64 * 2**20  # bytes; images may be in between
HEAD = 12  # bytes before a record: its length, and a checksum of that
TAIL = 4  # bytes after it: its checksum


class EventFiles:
    """The event files in a folder.

    Args:
        root: the folder; files are found at any depth.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._offsets: dict[Path, int] = {}
        self._last = 0

    def begin(self) -> None:
        """A process is about to start: what is there is not its own."""
        self._offsets = {file: _size(file) for file in self._files()}
        self._last = 0

    def read(self) -> list[Report]:
        """The steps that have been written since, in order; each is told once."""
        found: dict[int, dict[str, float]] = {}
        for file in self._files():
            for step, name, value in self._scalars(file):
                metrics = found.setdefault(step, {})
                if len(metrics) < METRICS_LIMIT:
                    metrics[name] = value
        steps = [step for step in sorted(found) if step > self._last]
        self._last = max([self._last, *steps])
        return [Report(step, found[step]) for step in steps]

    def _files(self) -> list[Path]:
        return sorted(self._root.rglob("*tfevents*"))

    def _scalars(self, file: Path) -> Iterator[tuple[int, str, float]]:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event

        for record in self._records(file):
            with suppress(DecodeError):
                event = Event.FromString(record)
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        yield event.step, value.tag, value.simple_value

    def _records(self, file: Path) -> Iterator[bytes]:
        offset = self._offsets.get(file, 0)
        try:
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                while True:
                    opened.seek(offset)
                    length = int.from_bytes(opened.read(HEAD)[:8], "little")
                    end = offset + HEAD + length + TAIL
                    if not 0 < length <= RECORD_LIMIT or end > size:
                        break
                    yield opened.read(length)
                    offset = end
        except OSError:
            pass  # at the next look, then
        self._offsets[file] = offset


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
