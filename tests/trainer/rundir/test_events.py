"""Events in batches: written once, read once, whatever the store does."""

from __future__ import annotations

import ast
import asyncio
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir import events, formats
from trainer.rundir.batches import BATCH_LIMIT
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventReader, EventWriter, read_events
from trainer.rundir.names import EVENTS
from trainer.rundir.store import Store


class Unreliable(Store):
    """A store that can fail before or after it has written, or when it reads."""

    fails = ""

    def write(self, name: str, data: bytes | memoryview) -> None:
        if self.fails == "before":
            raise OSError("the store is away")
        super().write(name, data)
        if self.fails == "after":
            raise OSError("the answer was lost")

    def read(self, name: str, limit: int | None = None) -> bytes:
        if self.fails and name.endswith(self.fails):
            raise OSError("the store is away")
        return super().read(name, limit)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


@pytest.fixture
def unreliable(run_dir: RunDirectory) -> Unreliable:
    run_dir.store = Unreliable(run_dir.url)
    return run_dir.store


def writer_of(run_dir: RunDirectory, name: str = "w", start: int = 0) -> EventWriter:
    ticks = count(start)
    return EventWriter(run_dir, name, clock=lambda: float(next(ticks)))


def kinds(events: list[Event]) -> list[str]:
    return [event["event"] for event in events]


def test_an_event_has_its_time_and_the_fields_that_are_not_none(run_dir: RunDirectory) -> None:
    writer = writer_of(run_dir, start=7)
    writer.emit("resumed", generation=3, step=None, cause="grow", metrics={"loss": [0.5]})
    writer.flush()
    assert read_events(run_dir) == [
        {
            "event": "resumed",
            "time": 7.0,
            "generation": 3,
            "cause": "grow",
            "metrics": {"loss": [0.5]},
        }
    ]


def test_a_flush_is_a_batch_with_the_next_number(run_dir: RunDirectory) -> None:
    writer = writer_of(run_dir)
    writer.emit("a")
    writer.emit("b")
    writer.flush()
    writer.emit("c")
    writer.flush()
    assert run_dir.store.names(f"{EVENTS}/w") == ["000000.jsonl", "000001.jsonl"]
    assert run_dir.store.read(f"{EVENTS}/w/000000.jsonl").count(b"\n") == 3  # with its format


def test_a_flush_of_nothing_writes_nothing(run_dir: RunDirectory) -> None:
    writer = writer_of(run_dir)
    writer.flush()
    assert run_dir.store.names() == []
    assert read_events(run_dir) == []


def test_a_reader_returns_each_event_once_and_in_order_of_time(run_dir: RunDirectory) -> None:
    late, early = writer_of(run_dir, "a-late", 10), writer_of(run_dir, "b-early")
    reader = EventReader(run_dir)
    for writer, event in ((late, "3rd"), (early, "1st"), (early, "2nd")):
        writer.emit(event)
        writer.flush()
    assert kinds(reader.read_new()) == ["1st", "2nd", "3rd"]
    assert reader.read_new() == []
    early.emit("later")
    early.flush()
    assert kinds(reader.read_new()) == ["later"]


def test_a_store_that_is_away_costs_no_event(run_dir: RunDirectory, unreliable: Unreliable) -> None:
    writer = writer_of(run_dir)
    writer.emit("a")
    unreliable.fails = "before"
    for event in ("b", "c"):
        with pytest.raises(OSError, match="away"):
            writer.flush()
        writer.emit(event)
    unreliable.fails = ""
    writer.flush()
    assert kinds(read_events(run_dir)) == ["a", "b", "c"]


def test_what_has_gathered_in_hours_is_written_in_batches_that_readers_take_in(
    run_dir: RunDirectory,
) -> None:
    writer = writer_of(run_dir)
    for number in range(20):
        writer.emit("resumed", n=number, cause="x" * (BATCH_LIMIT // 16))
    writer.flush()
    writer.emit("resumed", n=20)
    writer.flush()
    assert [event["n"] for event in read_events(run_dir)] == list(range(21))


def test_what_flushes_often_goes_on_after_a_store_was_away(
    run_dir: RunDirectory, unreliable: Unreliable
) -> None:
    async def body() -> None:
        writer = writer_of(run_dir)
        writer.emit("a")
        unreliable.fails = "before"
        flushing = asyncio.create_task(writer.flush_often(0.01))
        await asyncio.sleep(0.1)
        assert not flushing.done()
        unreliable.fails = ""
        while not read_events(run_dir):
            await asyncio.sleep(0.01)
        flushing.cancel()

    asyncio.run(body())
    assert kinds(read_events(run_dir)) == ["a"]


def test_a_write_whose_answer_is_lost_is_told_once(
    run_dir: RunDirectory, unreliable: Unreliable
) -> None:
    writer, reader = writer_of(run_dir), EventReader(run_dir)
    writer.emit("a")
    unreliable.fails = "after"
    with pytest.raises(OSError, match="lost"):
        writer.flush()
    assert kinds(reader.read_new()) == ["a"]
    unreliable.fails = ""
    writer.emit("b")
    writer.flush()
    assert kinds(reader.read_new()) == ["b"]
    assert kinds(read_events(run_dir)) == ["a", "b"]


def test_a_read_that_fails_midway_costs_the_reader_no_event(
    run_dir: RunDirectory, unreliable: Unreliable
) -> None:
    writer, reader = writer_of(run_dir), EventReader(run_dir)
    for event in ("a", "b"):
        writer.emit(event)
        writer.flush()
    unreliable.fails = "000001.jsonl"
    with pytest.raises(OSError, match="away"):
        reader.read_new()
    unreliable.fails = ""
    assert kinds(reader.read_new()) == ["a", "b"]


LINES = st.one_of(
    st.binary(max_size=30),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["event", "time", "x"]), inner, max_size=3)
        ),
    ).map(lambda value: json.dumps(value).encode()),
    st.integers().map(lambda time: json.dumps({"event": "odd", "time": time * 10**320}).encode()),
)


@given(st.lists(LINES, max_size=5), st.integers(0, 5))
def test_damaged_lines_are_skipped_and_the_others_read(lines: list[bytes], position: int) -> None:
    good = b'{"event": "good", "time": 1.5}'
    batch = b"\n".join([*lines[:position], good, *lines[position:]])
    run_dir = RunDirectory("memory://damaged-lines")
    try:
        run_dir.store.write(f"{EVENTS}/w/000000.jsonl", batch)
        events = read_events(run_dir)
    finally:
        run_dir.store.delete("")
    assert {"event": "good", "time": 1.5} in events
    assert all(isinstance(event["event"], str) for event in events)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"event": "a"}',
        b'{"time": 1}',
        b'{"event": 1, "time": 1}',
        b'{"event": "a", "time": "1"}',
        b'{"event": "a", "time": 1',
        b"\xff\xfe",
    ],
)
def test_what_is_no_event_is_skipped(run_dir: RunDirectory, line: bytes) -> None:
    run_dir.store.write(f"{EVENTS}/w/000000.jsonl", line + b"\n")
    assert read_events(run_dir) == []


def test_events_of_before_leaders_had_terms_are_read(run_dir: RunDirectory) -> None:
    line = b'{"event": "leader_changed", "time": 1.5, "epoch": 2, "member": "workerpool0-0"}\n'
    run_dir.store.write(f"{EVENTS}/w/000000.jsonl", line)
    assert read_events(run_dir) == [
        {"event": "leader_changed", "time": 1.5, "term": 2, "member": "workerpool0-0"}
    ]


def test_what_json_cannot_carry_is_refused_at_once(run_dir: RunDirectory) -> None:
    writer = writer_of(run_dir)
    unserializable: Any = object()
    with pytest.raises(TypeError):
        writer.emit("a", reason=unserializable)
    writer.emit("b")
    writer.flush()
    assert kinds(read_events(run_dir)) == ["b"]


# --- versions ---------------------------------------------------------------------


def newer(run_dir: RunDirectory, writer: str, batch: int, *events: Event, format: int = 9) -> None:
    lines = [{"format": format, "swell": "7.1"}, *events]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    run_dir.store.write(f"{EVENTS}/{writer}/{batch:06d}.jsonl", data)


def test_a_batch_says_its_format(run_dir: RunDirectory) -> None:
    writer = writer_of(run_dir)
    writer.emit("a")
    writer.flush()
    first, _ = run_dir.store.read(f"{EVENTS}/w/000000.jsonl").splitlines()
    assert json.loads(first) == formats.EVENTS.stamp()


@given(st.integers(formats.EVENTS.number + 1, 2**63))
def test_a_newer_writer_is_known_to_be_there_and_nothing_else(format: int) -> None:
    run_dir = RunDirectory("memory://newer-events")
    run_dir.store.delete(EVENTS)
    newer(run_dir, "leader-1", 0, {"event": "loss", "time": 5.0, "member": "a"}, format=format)
    (event,) = read_events(run_dir)
    assert (event["event"], event["time"]) == ("unreadable", 5.0)
    assert f"events/leader-1 is of format {format}, written by Swell 7.1" in event["reason"]


def test_a_newer_writer_is_mentioned_once(run_dir: RunDirectory) -> None:
    reader = EventReader(run_dir)
    newer(run_dir, "a", 0, {"event": "loss", "time": 5.0})
    newer(run_dir, "a", 1, {"event": "loss", "time": 6.0})
    assert kinds(reader.read_new()) == ["unreadable"]
    newer(run_dir, "a", 2, {"event": "loss", "time": 7.0})
    assert kinds(reader.read_new()) == []
    newer(run_dir, "b", 0)  # whose events have no time here
    assert kinds(reader.read_new()) == ["unreadable"]


def test_other_writers_are_read_beside_a_newer_one(run_dir: RunDirectory) -> None:
    newer(run_dir, "a", 0, {"event": "loss", "time": 1.0})
    writer = writer_of(run_dir, "b", start=2)
    writer.emit("resumed")
    writer.flush()
    assert kinds(read_events(run_dir)) == ["unreadable", "resumed"]


@pytest.mark.parametrize("first", [b"{", b"[9]", b'{"format": "x"}', b'{"format": -1}'])
def test_a_damaged_first_line_hides_nothing(run_dir: RunDirectory, first: bytes) -> None:
    event = b'{"event": "loss", "time": 1.0}'
    run_dir.store.write(f"{EVENTS}/w/000000.jsonl", first + b"\n" + event + b"\n")
    assert kinds(read_events(run_dir)) == ["loss"]


def test_the_vocabulary_has_what_the_code_emits_and_nothing_else() -> None:
    root = Path(__file__).parents[3]
    emitted = set()
    for path in (*(root / "trainer").rglob("*.py"), *(root / "launcher").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name, first = ast.unparse(node.func).rpartition(".")[2], node.args[0]
            if name.strip("_") in ("emit", "report", "Event") and isinstance(first, ast.Constant):
                emitted.add(first.value)
    rows = str(events.__doc__).partition("further fields\n")[2].partition("\n\n")[0]
    known = {line.split()[0] for line in rows.splitlines() if line[:1].isalpha()}
    assert emitted == known - {"event", "unreadable"}  # the latter is made by readers
