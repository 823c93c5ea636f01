"""How output becomes log entries."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import pytest
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


@contextmanager
def room_for(more: int, path: Path) -> Iterator[None]:
    """Meanwhile the file at ``path`` can grow by so many bytes only, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def messages_in(root: Path) -> list[str]:
    return [entry["jsonPayload"]["message"] for entry in read_entries(root, None, None)]


@pytest.mark.parametrize("room", [0, 1, 100])
def test_what_a_full_disk_does_not_take_is_left_out_and_the_log_says_so(
    tmp_path: Path, room: int
) -> None:
    log = ReplicaLog(tmp_path, "7", "workerpool0-0", clock=lambda: NOON)
    log.write("INFO", ["before"])
    with room_for(room, log.path):
        log.write("INFO", ["lost", "lost"])
        StreamLog(log, "ERROR").feed(b"lost\n")
        assert messages_in(tmp_path) == ["before"], "and none is there in part"
    log.write("INFO", ["after"])
    assert messages_in(tmp_path) == [
        "before",
        "3 lines are not in this log: " + os.strerror(27 if room == 0 else 28),
        "after",
    ]


def test_a_log_that_could_not_even_be_cut_is_read_all_the_same(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "7", "workerpool0-0")
    log.write("INFO", ["one"])
    with log.path.open("a") as file:
        file.write('{"timestamp": "2026\n')
    log.write("INFO", ["two"])
    assert messages_in(tmp_path) == ["one", "two"]


def test_after_its_writer_was_killed_in_the_middle_of_a_line_the_next_goes_on(
    tmp_path: Path,
) -> None:
    log = ReplicaLog(tmp_path, "7", "workerpool0-0")
    log.write("INFO", ["one"])
    with log.path.open("a") as file:
        file.write('{"timestamp": "2026')
    ReplicaLog(tmp_path, "7", "workerpool0-0").write("INFO", ["two"])
    assert messages_in(tmp_path) == ["one", "two"]


def test_a_log_ends_at_its_limit_and_says_so(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "7", "workerpool0-0", limit=1000)
    for _ in range(9):
        log.write("INFO", ["x" * 200])
    *lines, last = messages_in(tmp_path)
    assert lines == ["x" * 200] * 3
    assert last == "this log ends here, at its limit of 1,000 bytes; the replica goes on"
