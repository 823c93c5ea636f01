"""How output becomes log entries."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.logs import LONGEST_LINE, ReplicaLog, StreamLog, read_entries

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class Memory(ReplicaLog):
    """A log that keeps its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def write(self, severity: str, messages: list[str]) -> None:
        self.messages += messages


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Memory(), Memory()
    stream = StreamLog(whole, "INFO")
    stream.feed(data)
    stream.end()
    stream = StreamLog(pieces, "INFO")
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        stream.feed(data[start:end])
    stream.end()
    assert whole.messages == pieces.messages
    lines = data.split(b"\n")
    assert len(whole.messages) == len(lines) - (lines[-1] == b"")


def test_a_line_of_any_length_needs_little_memory_and_loses_nothing() -> None:
    log = Memory()
    stream = StreamLog(log, "INFO")
    for pieces in range(1, 101):
        stream.feed(b"x" * 1000)
        held = pieces * 1000 - sum(map(len, log.messages))
        assert held <= LONGEST_LINE + 1000
    stream.feed(b"\n")
    assert "".join(log.messages) == "x" * 100_000


def test_entries_of_a_replica_are_distinct_in_time_and_in_order(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "7", "workerpool0-0", clock=lambda: NOON)
    log.write("INFO", ["one", "two"])
    log.write("ERROR", ["three"])
    log.close()
    log.write("INFO", ["after the end"])
    entries = list(read_entries(tmp_path, "7", None))
    assert [entry["timestamp"] for entry in entries] == [
        "2026-01-01T12:00:00.000000Z",
        "2026-01-01T12:00:00.000001Z",
        "2026-01-01T12:00:00.000002Z",
    ]
    assert [entry["jsonPayload"]["message"] for entry in entries] == ["one", "two", "three"]
    lines = log.path.read_text().splitlines()
    assert json.loads(lines[2]) == {
        "timestamp": "2026-01-01T12:00:00.000002Z",
        "severity": "ERROR",
        "replica": "workerpool0-0",
        "message": "three",
    }


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "7", "workerpool0-0", clock=lambda: NOON)
    log.write("INFO", ["one"])
    log.close()
    with log.path.open("a") as file:
        file.write('{"timestamp": "2026')
    assert len(list(read_entries(tmp_path, None, None))) == 1
