"""Events that are put together: nothing is lost, nothing told twice, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.rundir.compacted import (
    Away,
    Writers,
    at_operation,
    compaction,
    fail,
    watched,
)
from trainer.rundir import formats
from trainer.rundir.compaction import ALIKE, absorbed
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventReader, read_events
from trainer.rundir.names import EVENTS
from trainer.rundir.segments import GISTS, INDEX, SEGMENTS, Index, Segment, index_name, read_index
from trainer.rundir.store import Store
from trainer.rundir.untrusted import parse_json

OPERATIONS = 200  # more than a round, or a look, has


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def in_order(events: list[Event]) -> list[Event]:
    return sorted(events, key=lambda event: float(event["time"]))


def covered(events: list[Event]) -> list[tuple[int, int]]:
    """The steps of events, each once or it fails, and the times of the others."""
    steps = [
        step
        for event in events
        if event["event"] == "steps" and "seconds" in event
        for step in range(event["first"], event["first"] + event["count"])
    ]
    others = [int(event["time"]) for event in events if event["event"] != "steps"]
    assert len(set(steps)) == len(steps)
    assert len(set(others)) == len(others)
    return sorted([(0, step) for step in steps] + [(1, time) for time in others])


def assert_told_once(run_dir: RunDirectory, writers: Writers) -> None:
    """Whoever comes now finds everything, once."""
    assert read_events(run_dir) == in_order(writers.written)
    assert covered(read_events(run_dir, brief=True)) == covered(writers.written)


def test_what_is_in_segments_is_read_as_if_it_were_in_batches(store: Store) -> None:
    run_dir = RunDirectory(store.url, store.fs)
    writers, compactor = Writers(run_dir), compaction(run_dir)
    for _ in range(4):
        writers.write("a", 3)
        writers.write("2-workerpool1-0-9f", 2)
        compactor.round()
        assert_told_once(run_dir, writers)
    batches = [name for name in run_dir.store.files(EVENTS) if name.startswith(("a/", "2-"))]
    assert len(batches) == 5, "those of the last round are deleted with the next"
    assert sum(one.events for one in read_index(run_dir).segments) == 20


def test_few_batches_are_left_as_they_are(run_dir: RunDirectory) -> None:
    writers, compactor = Writers(run_dir), compaction(run_dir)
    writers.write(batches=2)
    compactor.round()
    assert run_dir.store.names(EVENTS) == ["a"]


def test_the_index_says_what_its_segments_hold(run_dir: RunDirectory) -> None:
    writers = Writers(run_dir)
    writers.write(batches=3)
    compaction(run_dir).round()
    index = read_index(run_dir)
    (segment,) = index.segments
    assert (index.version, index.covers) == (1, {"a": 3})
    assert (segment.events, segment.since, segment.until) == (3, 1.0, 3.0)
    assert segment.bytes == run_dir.store.size(segment.name)


def test_of_many_steps_the_gist_is_short(run_dir: RunDirectory) -> None:
    writers, compactor = Writers(run_dir), compaction(run_dir, limit=10**6)
    writers.write(batches=300)
    compactor.round()
    (segment,) = read_index(run_dir).segments
    assert run_dir.store.size(segment.gist) < run_dir.store.size(segment.name) * 0.8


@given(
    st.lists(
        st.sampled_from(["write a", "write b", "round 1", "round 2", "look", "brief"]),
        max_size=30,
    )
)
def test_readers_that_look_at_any_time_are_told_everything_once(acts: list[str]) -> None:
    run_dir = RunDirectory("memory://compacted-at-any-time")
    run_dir.store.delete("")
    writers = Writers(run_dir)
    compactors = {"1": compaction(run_dir), "2": compaction(run_dir)}
    full, brief = EventReader(run_dir), EventReader(run_dir, brief=True)
    told: list[Event] = []
    told_briefly: list[Event] = []
    for act in [*acts, "look", "brief"]:
        match act.split():
            case ["write", writer]:
                writers.write(writer, 2)
            case ["round", which]:
                compactors[which].round()
            case ["look"]:
                told += full.read_new()
                assert in_order(told) == in_order(writers.written)
            case ["brief"]:
                told_briefly += brief.read_new()
                assert covered(told_briefly) == covered(writers.written)
    assert_told_once(run_dir, writers)


# --- crashes, and others who write meanwhile ----------------------------------------


def grown(run_dir: RunDirectory) -> Writers:
    """A run with two segments, batches that are in them and still there, and new ones."""
    writers, compactor = Writers(run_dir), compaction(run_dir)
    for writer, batches in (("a", 6), ("b", 4)):
        writers.write(writer, batches)
        compactor.round()
    writers.write("a", 2)
    writers.write("c", 3)
    return writers


def each_operation(check: Callable[[int, RunDirectory], bool]) -> None:
    """Has something checked for each operation, until it says that there was none any more."""
    run_dir = RunDirectory("memory://compacted-at-each-operation")
    for number in range(OPERATIONS):
        run_dir.store.delete("")
        if not check(number, run_dir):
            assert number > 5, "it did nothing"
            return
    raise AssertionError("it has no end")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_any_operation_loses_nothing(moment: str) -> None:
    def check(number: int, run_dir: RunDirectory) -> bool:
        writers = grown(run_dir)
        readers = [EventReader(run_dir), EventReader(run_dir, brief=True)]
        told = [reader.read_new() for reader in readers]
        crashing, store = watched(run_dir)
        setattr(store, moment, at_operation(number, fail))
        try:
            compaction(crashing).round()
            crashed = False
        except Away:
            crashed = True
        assert_told_once(run_dir, writers)
        writers.write("d", 3)
        for _ in range(3):  # the next leader
            compaction(run_dir).round()
            assert_told_once(run_dir, writers)
        assert in_order(told[0] + readers[0].read_new()) == in_order(writers.written)
        assert covered(told[1] + readers[1].read_new()) == covered(writers.written)
        assert_tidy(run_dir)
        return crashed

    each_operation(check)


def assert_tidy(run_dir: RunDirectory) -> None:
    """Nothing is left of what was given up or has been replaced."""
    index = read_index(run_dir)
    named = sorted(one.file for one in index.segments)
    assert run_dir.store.names(SEGMENTS) == run_dir.store.names(GISTS) == named
    assert len(run_dir.store.names(INDEX)) <= 2


def test_of_two_that_compact_at_a_time_one_counts() -> None:
    """The older leader stops at an operation; another compacts more than once; it goes on."""

    def check(number: int, run_dir: RunDirectory) -> bool:
        writers = grown(run_dir)
        late, store = watched(run_dir)
        interrupted = []

        def others() -> None:
            interrupted.append(True)
            for writer in ("c", "e", "a", "e"):
                compaction(run_dir).round()
                writers.write(writer, 3)
                assert_told_once(run_dir, writers)

        store.before = at_operation(number, others)
        try:
            compaction(late).round()
        except FileNotFoundError:  # what it was about to read has been put together
            assert interrupted
        assert_told_once(run_dir, writers)
        for _ in range(3):
            compaction(run_dir).round()
            assert_told_once(run_dir, writers)
        assert_tidy(run_dir)
        return bool(interrupted)

    each_operation(check)


@pytest.mark.parametrize("brief", [False, True], ids=["in full", "brief"])
@pytest.mark.parametrize("before", [0, 1, 2], ids=["first look", "second look", "late look"])
def test_a_reader_may_be_overtaken_at_any_operation(brief: bool, before: int) -> None:
    """What was there when it began to look is told by that look, and the rest by the next."""

    def check(number: int, run_dir: RunDirectory) -> bool:
        writers, compactor = Writers(run_dir), compaction(run_dir)
        looking, store = watched(run_dir)
        reader = EventReader(looking, brief=brief)
        told: list[Event] = []
        for _ in range(before):
            writers.write("a", 2)
            writers.write("b", 2)
            told += reader.read_new()
        for writer in ("a", "c"):
            writers.write(writer, 3)
            compactor.round()
        writers.write("a", 1)
        there = covered(writers.written)
        interrupted = []

        def others() -> None:
            interrupted.append(True)
            for writer in ("a", "b", "d"):
                writers.write(writer, 3)
                compactor.round()

        store.before = at_operation(number, others)
        told += reader.read_new()
        assert set(there) <= set(covered(told))
        told += reader.read_new()
        assert covered(told) == covered(writers.written)
        return bool(interrupted)

    each_operation(check)


def test_a_list_that_lacks_a_batch_does_not_cost_it(run_dir: RunDirectory) -> None:
    writers = Writers(run_dir)
    writers.write(batches=6)

    class Hasty(Store):
        lacks = "a/000003.jsonl"

        def files(self, folder: str = "") -> list[str]:
            return [name for name in super().files(folder) if name != self.lacks]

    hasty = RunDirectory(run_dir.url)
    store = hasty.store = Hasty(run_dir.url)
    reader = EventReader(hasty)
    told = reader.read_new()
    assert len(told) == 5
    for _ in range(2):
        compaction(hasty).round()
        assert_told_once(run_dir, writers)
    store.lacks = ""
    assert in_order(told + reader.read_new()) == in_order(writers.written)


def test_a_batch_that_is_written_once_more_is_told_once(run_dir: RunDirectory) -> None:
    """Its writer never got the answer, and the batch had been put together by then."""
    writers, compactor = Writers(run_dir), compaction(run_dir)
    writers.write(batches=3)
    batch = f"{EVENTS}/a/000002.jsonl"
    data = run_dir.store.read(batch)
    compactor.round()
    compactor.round()
    assert not run_dir.store.exists(batch)
    reader = EventReader(run_dir)
    told = reader.read_new()
    run_dir.store.write(batch, data)
    assert_told_once(run_dir, writers)
    assert told == writers.written
    assert reader.read_new() == []
    compactor.round()
    assert not run_dir.store.exists(batch)


def test_a_version_that_was_long_replaced_may_be_created_again(run_dir: RunDirectory) -> None:
    """A leader that slept for a day: its index is none that counts."""
    writers = grown(run_dir)
    late, store = watched(run_dir)

    def others() -> None:
        for _ in range(5):
            writers.write("a", 3)
            compaction(run_dir).round()

    creates = store.create

    def create(name: str, data: bytes) -> bool:
        if name == index_name(3):
            others()
        return creates(name, data)

    store.create = create  # type: ignore[method-assign]
    compaction(late).round()
    assert run_dir.store.exists(index_name(3)), "nobody had it any more"
    assert_told_once(run_dir, writers)
    compaction(run_dir).round()
    assert_told_once(run_dir, writers)


def test_no_list_brings_an_index_back_that_has_been_replaced(run_dir: RunDirectory) -> None:
    writers = Writers(run_dir)
    writers.write(batches=3)
    compaction(run_dir).round()
    assert read_index(run_dir).version == 1
    known = Index(version=4)
    assert read_index(run_dir, known) is known


# --- how much is written ------------------------------------------------------------


def test_an_event_is_written_again_a_few_times_at_most() -> None:
    """As many new events as one likes, always the same number in a round."""
    size, limit, segments, written = 100, 6_400, list[Segment](), 0
    for number in range(1000):
        grown = absorbed(segments, size, limit)
        taken = [segments.pop() for _ in range(grown)]
        new = size + sum(one.bytes for one in taken)
        segments.append(Segment(f"{number}", 1, new, 0.0, 0.0))
        written += new
    assert max(one.bytes for one in segments) <= limit
    assert len(segments) < 1000 * size / limit * ALIKE + 10
    assert written / (1000 * size) < 8


def test_what_is_much_larger_is_not_written_again() -> None:
    large = Segment("1", 1, 1000, 0.0, 0.0)
    assert absorbed([large], 100, 10**6) == 0
    assert absorbed([large], 500, 10**6) == 1
    assert absorbed([large], 500, 1400) == 0


# --- versions, and what is damaged ----------------------------------------------------


def test_who_knows_only_batches_finds_a_newer_format(run_dir: RunDirectory) -> None:
    """What an older reader looks at: the first line of every file in every folder."""
    compactor = compaction(run_dir)
    Writers(run_dir).write(batches=3)
    compactor.round()
    for folder in (SEGMENTS, GISTS):
        (file,) = run_dir.store.names(folder)
        head = parse_json(run_dir.store.read(f"{folder}/{file}").partition(b"\n")[0])
        assert "event" not in head
        assert head["format"] > formats.EVENTS.number
    (batch, *_) = run_dir.store.names(f"{EVENTS}/a")
    head = parse_json(run_dir.store.read(f"{EVENTS}/a/{batch}").partition(b"\n")[0])
    assert head["format"] == formats.EVENTS.number, "and can read what is new"


def test_a_newer_index_is_one_unreadable_and_stays(run_dir: RunDirectory) -> None:
    writers = Writers(run_dir)
    writers.write(batches=5)
    newer = {"format": formats.SEGMENTS.number + 1, "swell": "7.1"}
    run_dir.write_json(index_name(1), newer)
    reader = EventReader(run_dir)
    told = reader.read_new()
    assert [event["event"] for event in told] == [
        "unreadable",
        *[event["event"] for event in writers.written],
    ]
    assert f"{INDEX}/000000001.json is of format 4, written by Swell 7.1" in told[0]["reason"]
    assert reader.read_new() == []
    with pytest.raises(formats.FormatError):
        compaction(run_dir).round()
    assert run_dir.store.names(INDEX) == ["000000001.json"]


def test_a_newer_writers_batches_are_left_to_those_who_can_read_them(
    run_dir: RunDirectory,
) -> None:
    writers, compactor = Writers(run_dir), compaction(run_dir)
    for number in range(4):
        line = b'{"format": 9, "swell": "7.1"}\n{"event": "loss", "time": 2.0}\n'
        run_dir.store.write(f"{EVENTS}/b/{number:06d}.jsonl", line)
    writers.write("a", 4)
    for _ in range(3):
        compactor.round()
        told = [event["event"] for event in read_events(run_dir)]
        assert sorted(told) == sorted([*(one["event"] for one in writers.written), "unreadable"])
        writers.write("a", 3)
    assert len(run_dir.store.names(f"{EVENTS}/b")) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"format": 3, "segments": [1], "covers": {}}',
        b'{"format": 3, "segments": [], "covers": []}',
        b'{"format": 3, "segments": [{"file": "../../x"}], "covers": {}}',
    ],
)
def test_a_damaged_index_is_named(run_dir: RunDirectory, data: bytes) -> None:
    run_dir.store.write(index_name(1), data)
    for read in (lambda: read_events(run_dir), lambda: compaction(run_dir).round()):
        with pytest.raises(ValueError, match=r"events/index/000000001\.json"):
            read()


def test_a_segment_that_is_gone_is_named(run_dir: RunDirectory) -> None:
    Writers(run_dir).write(batches=3)
    compactor = compaction(run_dir)
    compactor.round()
    compactor.round()
    (segment,) = read_index(run_dir).segments
    run_dir.store.delete(segment.name)
    with pytest.raises(FileNotFoundError, match=segment.file):
        read_events(run_dir)


def test_a_damaged_gist_is_named(run_dir: RunDirectory) -> None:
    writers = Writers(run_dir)
    writers.write(batches=3)
    compactor = compaction(run_dir)
    compactor.round()
    compactor.round()
    (segment,) = read_index(run_dir).segments
    run_dir.store.write(segment.gist, b"{\n")
    with pytest.raises(ValueError, match=segment.file):
        read_events(run_dir, brief=True)
    assert read_events(run_dir) == writers.written
