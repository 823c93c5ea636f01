"""The output of replicas: written line by line, read as Cloud Logging's entries.

``<root>/<job id>/<replica>.jsonl`` holds one JSON object per line: ``timestamp``,
``severity`` (INFO from stdout, ERROR from stderr), ``replica`` and ``message``; of a line that is
a JSON object with a message, what it says, and its labels.

Whoever prints never learns what becomes of it. Of a replica that prints more than a disk should
hold, the log ends at a limit; what a full disk does not take is left out. The log says so itself.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from trainer.rundir import clock
from trainer.rundir.private import append_private, make_private

LONGEST_LINE = 16 * 1024  # bytes; longer ones become several entries
LIMIT = 2**28  # bytes of one replica's log
LONGEST_ENTRY = 8 * LONGEST_LINE  # bytes: JSON writes some characters as \\uXXXX
TICK = timedelta(microseconds=1)
LABELS = "logging.googleapis.com/labels"
SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL")

Entry = dict[str, Any]


def utc_now() -> datetime:
    """The time of day that timestamps are made from; see trainer.rundir.clock."""
    return datetime.fromtimestamp(clock.now(), timezone.utc)


def timestamp(moment: datetime) -> str:
    """RFC 3339 with microseconds, so that text and time sort alike."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """The moment that ``timestamp`` has written."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


class ReplicaLog:
    """Writes what a replica prints, after what it has printed before.

    Args:
        root: the folder of all logs.
        job_id: whose logs.
        replica: whose output.
        clock: the time of day.
        limit: bytes after which the log ends.
    """

    def __init__(
        self,
        root: Path,
        job_id: str,
        replica: str,
        clock: Callable[[], datetime] = utc_now,
        limit: int = LIMIT,
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._limit = limit
        self._full = False
        self._left_out = 0  # entries since the last that was written
        self._why = ""
        self.path = root / job_id / f"{replica}.jsonl"
        make_private(self.path.parent)
        self._last = _last_moment(self.path)
        self._file = append_private(self.path)
        _cut_to_lines(self._file.fileno())

    def stream(self, severity: str) -> StreamLog:
        """Returns a writer for one of the replica's streams."""
        return StreamLog(self, severity)

    def write(self, severity: str, messages: list[str]) -> None:
        """Adds entries. Every entry of a replica is later than the one before.

        What cannot be written is left out, and the next entry that can says so.
        """
        if self._file.closed or self._full:
            return
        entries = [self._entry(severity, message) for message in messages]
        if self._left_out:
            said = f"{self._left_out} lines are not in this log: {self._why}"
            entries.insert(0, self._entry("WARNING", said))
        if os.fstat(self._file.fileno()).st_size + sum(map(len, entries)) > self._limit:
            said = f"this log ends here, at its limit of {self._limit:,} bytes; the replica goes on"
            entries = [self._entry("WARNING", said)]
            self._full = True
        if self._append(b"".join(entries)):
            self._left_out = 0
        else:
            self._left_out += len(messages)

    def _entry(self, severity: str, message: str) -> bytes:
        self._last = max(self._clock(), self._last + TICK)
        entry = {
            "timestamp": timestamp(self._last),
            "severity": severity,
            "replica": self._replica,
            "message": message,
            **_structured(message),
        }
        return json.dumps(entry).encode() + b"\n"

    def _append(self, data: bytes) -> bool:
        """Writes all of ``data`` or none of it. Returns whether it was written."""
        before = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(data) == len(data):
                return True
            self._why = os.strerror(errno.ENOSPC)  # for the rest there was no room
        except OSError as error:
            self._why = error.strerror or str(error)
        with suppress(OSError):
            self._file.truncate(before)
        return False

    def close(self) -> None:
        """Ends the log."""
        self._file.close()


class StreamLog:
    """Cuts one stream of bytes into lines. Bytes that are not UTF-8 are marked as such."""

    def __init__(self, log: ReplicaLog, severity: str) -> None:
        self._log = log
        self._severity = severity
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        self._log.write(self._severity, [text for line in lines for text in _bounded(line)])

    def end(self) -> None:
        """Writes the last line, if it did not end with a newline."""
        if self._rest:
            self._log.write(self._severity, list(_bounded(self._rest)))
            self._rest = b""


def _structured(message: str) -> dict[str, Any]:
    """What a line says of itself, if it is a JSON object with a message: as Google's agent reads it

    (cloud.google.com/logging/docs/structured-logging). Of its other fields the labels alone stay.
    """
    if not (message.startswith("{") and message.endswith("}")):
        return {}
    try:
        told = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told.get("message"), str):
        return {}
    found: dict[str, Any] = {"message": told["message"]}
    if told.get("severity") in SEVERITIES:
        found["severity"] = told["severity"]
    if isinstance(labels := told.get(LABELS), dict):
        found["labels"] = {str(name): str(value) for name, value in labels.items()}
    return found


def _last_moment(path: Path) -> datetime:
    """When the last entry of a log was made; the clock may have been set back since."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_ENTRY))
        for line in reversed(file.readlines()):
            with suppress(ValueError, KeyError, TypeError):  # cut off
                return parse_timestamp(json.loads(line)["timestamp"])
    return datetime.min.replace(tzinfo=timezone.utc)


def _bounded(line: bytes) -> Iterator[str]:
    line = line.removesuffix(b"\r")
    for start in range(0, max(1, len(line)), LONGEST_LINE):
        yield line[start : start + LONGEST_LINE].decode("utf-8", "replace")


def _cut_to_lines(log: int) -> None:
    """Cuts off an entry in the middle of which its writer was killed."""
    size = os.fstat(log).st_size
    start = max(0, size - LONGEST_ENTRY)
    whole = start + os.pread(log, size - start, start).rfind(b"\n") + 1
    if whole < size:
        with suppress(OSError):
            os.ftruncate(log, whole)


def read_entries(root: Path, job_id: str | None, replica: str | None) -> Iterator[Entry]:
    """Yields the entries of some logs, each log in its order, as LogEntry objects.

    Args:
        root: the folder of all logs.
        job_id: only this job's, or None for all.
        replica: only this replica's, or None for all.
    """
    for path in sorted(root.glob("*/*.jsonl")):
        if job_id in (None, path.parent.name) and replica in (None, path.stem):
            yield from _read_log(path)


def _read_log(path: Path) -> Iterator[Entry]:
    job_id, replica = path.parent.name, path.stem
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                return  # being written
            try:
                entry = json.loads(line)
            except ValueError:  # its writer was killed in the middle of it
                continue
            yield {
                "insertId": f"{replica}-{number:010d}",
                "timestamp": entry["timestamp"],
                "severity": entry["severity"],
                "resource": {
                    "type": "ml_job",
                    "labels": {"job_id": job_id, "task_name": replica},
                },
                "jsonPayload": {"message": entry["message"]},
                **({"labels": entry["labels"]} if "labels" in entry else {}),
            }
