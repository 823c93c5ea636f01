"""Several leaders and readers at a time, in any order, on a store that fails however it may."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.trainer.rundir.actors import Actor, Fate, Ground, View, seen_by
from trainer.rundir.batches import Batch, parse
from trainer.rundir.compaction import REFUSALS, TOGETHER, Compaction
from trainer.rundir.events import LOOKS, Event, EventReader, EventWriter, read_events
from trainer.rundir.names import EVENTS
from trainer.rundir.segments import GISTS, INDEX, SEGMENTS, read_index

LIMIT = 1500  # bytes of a segment: a few batches
DUE = 3
FATES: tuple[Fate, ...] = ("", "before", "after")


class Run:
    """Who writes the events of a run, and what they have written. Of several events one time."""

    def __init__(self) -> None:
        self.ground = Ground()
        self._numbers = count(1)
        self._now = 0.0
        self._writers: dict[str, tuple[EventWriter, View]] = {}

    def write(self, name: str = "a", batches: int = 1, fate: Fate = "") -> None:
        """Writes batches of one event; the fate is the first one's, which the next repeats."""
        if name not in self._writers:
            view = View(self.ground)
            self._writers[name] = EventWriter(seen_by(view), name, lambda: self._now), view
        writer, view = self._writers[name]
        for number in (next(self._numbers) for _ in range(batches)):
            self._now = float(number // 4)
            if number % 3:
                steps = {"first": 2 * number, "count": 2, "seconds": 1.5, "age": 0.0}
                metrics = {"loss": [0.5, 1.0 / number]}
                writer.emit("steps", n=number, generation=1, metrics=metrics, **steps)
            else:
                writer.emit("evaluated", n=number, step=number, metrics={})
            view.fate, fate = fate, ""
            with suppress(OSError):
                writer.flush()

    def flush(self) -> None:
        """Writes what could not be written."""
        for writer, _ in self._writers.values():
            writer.flush()

    def written(self, until: int | None = None) -> list[Event]:
        """What had been written after so many changes, in the order in which it is told."""
        found: list[tuple[float, Batch, Event]] = []
        for name, (change, data) in self.ground.written.items():
            batch = Batch.of(name.removeprefix(f"{EVENTS}/"))
            if batch is not None and (until is None or change <= until):
                found += ((event["time"], batch, event) for event in parse(data))
        return [event for *_, event in sorted(found, key=lambda one: one[:2])]

    def check(self) -> None:
        """Whoever comes now is told everything, once, in order."""
        now = seen_by(View(self.ground))
        assert read_events(now) == self.written()
        assert covered(read_events(now, brief=True)) == covered(self.written())

    def settle(self) -> None:
        """A leader whom nothing disturbs, until it has nothing to do."""
        compaction = Compaction(seen_by(View(self.ground)), due=DUE, limit=LIMIT)
        changes = -1
        while changes != self.ground.now:
            changes = self.ground.now
            compaction.round()
            self.check()

    def is_tidy(self) -> bool:
        """Whether nothing is left of what was given up or has been replaced."""
        run_dir = seen_by(View(self.ground))
        index = read_index(run_dir)
        named = sorted(one.file for one in index.segments)
        batches = [batch for batch in map(Batch.of, run_dir.store.files(EVENTS)) if batch]
        return (
            run_dir.store.names(SEGMENTS) == run_dir.store.names(GISTS) == named
            and len(run_dir.store.names(INDEX)) <= 2
            and not any(index.covered(batch) for batch in batches)
        )


def covered(events: Iterable[Event]) -> list[int]:
    """The steps that events tell of, and the others' numbers; each once, or it fails."""
    found: list[int] = []
    for event in events:
        if event["event"] != "steps":
            found.append(-event["n"])
        elif "seconds" in event:
            found += range(event["first"], event["first"] + event["count"])
    assert len(set(found)) == len(found), "told twice"
    return sorted(found)


class Leader:
    """Compacts, round after round, until it is stopped; if ``due`` is large, it only tidies."""

    def __init__(self, run: Run, limit: int = LIMIT, due: int = DUE, **late: Any) -> None:
        self.view = View(run.ground, **late)
        self.over = False
        self._compaction = Compaction(seen_by(self.view), lambda: self.over, due=due, limit=limit)
        self.actor = self.view.actor = Actor(self._lead)

    def _lead(self) -> None:
        while not self.over:
            with suppress(OSError):
                self._compaction.round()


class Reader:
    """Looks now and then; what it was told, and what was there when it began its last look."""

    def __init__(self, run: Run, brief: bool, **late: Any) -> None:
        self.view = View(run.ground, **late)
        self.told: list[Event] = []
        self.actor: Actor | None = None
        self._run = run
        self._brief = brief
        self._reader = EventReader(seen_by(self.view), brief=brief)

    def begin(self) -> None:
        """Begins a look, one operation at a time."""
        self.actor = self.view.actor = Actor(self.look)

    def look(self) -> None:
        """Looks at what is new, and checks that."""
        try:
            self.told += self._reader.read_new()
        except FileNotFoundError:
            assert self.view.lag, "somebody may be quicker, but not for ever"
        except OSError:
            return
        else:
            told, there = covered(self.told), covered(self._run.written(self.view.since))
            assert set(there) <= set(told), "what was there when it looked"

    def check(self) -> None:
        """It is told the rest, now that it is left in peace."""
        self.view.actor, self.view.fate = None, ""
        self.view.lag, self.view.parts = 0, None
        self.look()
        assert covered(self.told) == covered(self._run.written())
        if not self._brief:
            ordered = sorted(self.told, key=lambda event: event["n"])
            assert ordered == sorted(self._run.written(), key=lambda event: event["n"])


# --- any order ----------------------------------------------------------------------------

lags = st.sampled_from([0, 0, 1, 3, 20])
lates = st.fixed_dictionaries({"lag": lags, "parts": st.sampled_from([None, 1, 2, 3, 4])})
who = st.integers(0, 4)


class Races(RuleBasedStateMachine):
    """Writers, up to three leaders and two readers, any of whom stops, dies or is late."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run()
        self.leaders: list[Leader] = []
        self.readers: list[Reader] = []
        self.keeps = False

    @initialize(full=lates, brief=lates)
    def begin(self, full: dict[str, Any], brief: dict[str, Any]) -> None:
        self.readers = [Reader(self.run, False, **full), Reader(self.run, True, **brief)]

    @rule(name=st.sampled_from("abc"), batches=st.integers(1, 4), fate=st.sampled_from(FATES))
    def write(self, name: str, batches: int, fate: Fate) -> None:
        self.run.write(name, batches, fate)

    @precondition(lambda self: len(self.leaders) < 3)
    @rule(limit=st.sampled_from([300, LIMIT, 10**6]), due=st.sampled_from([DUE, 1000]), late=lates)
    def lead(self, limit: int, due: int, late: dict[str, Any]) -> None:
        self.leaders.append(Leader(self.run, limit, due, **late))

    @rule(which=st.integers(0, 1))
    def look(self, which: int) -> None:
        reader = self.readers[which]
        if reader.actor is None or reader.actor.over:
            reader.begin()

    @rule(which=who, operations=st.integers(1, 30), fate=st.sampled_from(FATES))
    def go_on(self, which: int, operations: int, fate: Fate) -> None:
        for view, actor in list(self.acting())[which : which + 1]:
            actor.go_on()  # to its next operation, if it has not begun
            view.fate = fate
            actor.go_on(operations)

    @precondition(lambda self: self.leaders)
    @rule(which=who, gently=st.booleans())
    def end(self, which: int, gently: bool) -> None:
        leader = self.leaders.pop(which % len(self.leaders))
        if gently:
            leader.over = True
            leader.actor.finish()
        else:
            leader.actor.kill()

    @rule(part=st.sampled_from(["", "/a/", "/index/", "/segments/", "/events/"]))
    def keep(self, part: str) -> None:
        """Some files may not be deleted any more; or they may again."""
        self.run.ground.kept = lambda name: bool(part) and part in name
        self.keeps |= bool(part)

    def acting(self) -> Iterator[tuple[View, Actor]]:
        """Who can go on."""
        them: list[Reader | Leader] = [*self.readers, *self.leaders]
        for one in them:
            if one.actor is not None and not one.actor.over:
                yield one.view, one.actor

    def teardown(self) -> None:
        try:
            for reader in self.readers:
                if reader.actor is not None:
                    reader.actor.finish()
            self.run.check()  # while leaders are in the middle of something
        finally:
            for _, actor in self.acting():
                actor.kill()
        self.run.flush()
        self.run.ground.kept = lambda name: False
        self.run.settle()
        if not self.keeps:
            assert self.run.is_tidy()
        for reader in self.readers:
            reader.check()


TestRaces = Races.TestCase
TestRaces.settings = settings(stateful_step_count=40)


# --- two leaders, at every pair of operations ---------------------------------------------


def grown() -> Run:
    """A run with two segments, batches that are in them and still there, and new ones."""
    run = Run()
    compaction = Compaction(seen_by(View(run.ground)), due=DUE, limit=LIMIT)
    for name, batches in (("a", 5), ("b", 4)):
        run.write(name, batches)
        compaction.round()
    run.write("a", 2)
    run.write("c", 2)
    return run


@pytest.mark.parametrize("end", ["thaws", "dies"])
@pytest.mark.parametrize("due", [DUE, 1000], ids=["compacts", "tidies"])
def test_a_leader_is_frozen_at_any_operation_and_the_next_one_at_any_of_its_own(
    due: int, end: str
) -> None:
    """The second goes on for so long; then the first does, or is gone; then the second."""
    pairs = 0
    for first, second in ((i, j) for i in range(1, 40) for j in range(0, 80, 10)):
        run = grown()
        frozen = Leader(run)
        frozen.actor.go_on(first)
        leader = Leader(run, due=due)
        leader.actor.go_on(second)
        run.write("d", DUE)
        leader.actor.go_on(second)
        if end == "thaws":
            frozen.actor.go_on(60)
        frozen.actor.kill()
        run.check()
        leader.actor.go_on(second)
        leader.actor.kill()
        run.settle()
        assert run.is_tidy()
        pairs += 1
    assert pairs > 300


# --- what a store does not let one do -----------------------------------------------------


def test_a_file_that_may_not_be_deleted_keeps_no_other_and_is_not_tried_again() -> None:
    run = grown()
    refused: list[str] = []

    def kept(name: str) -> bool:
        refused.extend([name] if "/a/" in name else [])
        return "/a/" in name

    run.ground.kept = kept
    compaction = Compaction(seen_by(View(run.ground)), due=DUE, limit=LIMIT)
    for _ in range(4):
        with suppress(PermissionError):
            compaction.round()
        run.check()
    assert refused and len(set(refused)) == len(refused)
    left = [name for name in run.ground.files if Batch.of(name.removeprefix(f"{EVENTS}/"))]
    assert left and all("/a/" in name for name in left)
    assert len([name for name in run.ground.files if INDEX in name]) <= 2


def test_where_nothing_may_be_deleted_it_is_not_tried_for_ever() -> None:
    run = Run()
    run.write("a", REFUSALS + 200)
    tried: list[str] = []

    def kept(name: str) -> bool:
        tried.append(name)
        return True

    run.ground.kept = kept
    compaction = Compaction(seen_by(View(run.ground)), due=DUE, limit=10**7)
    for _ in range(3):
        with suppress(PermissionError):
            compaction.round()
    assert REFUSALS <= len(tried) < REFUSALS + 100
    run.check()


def test_a_disk_that_is_full_is_given_room_by_what_is_in_segments_already() -> None:
    run = grown()

    class Full(View):
        def write(self, name: str, data: bytes | memoryview) -> None:
            raise OSError(errno.ENOSPC, "no room", name)

    before = len(run.ground.files)
    with pytest.raises(OSError, match="no room"):
        Compaction(seen_by(Full(run.ground)), due=DUE, limit=LIMIT).round()
    assert len(run.ground.files) < before
    run.check()


def test_large_batches_make_more_segments_and_not_larger_ones() -> None:
    run = Run()
    run.write("a", 20)
    size = max(len(data) for _, data in run.ground.written.values())
    compaction = Compaction(seen_by(View(run.ground)), due=DUE, limit=size)
    while compaction.round():
        run.check()
    segments = read_index(seen_by(View(run.ground))).segments
    assert len(segments) > 5
    assert max(one.bytes for one in segments) < 3 * size


def test_who_is_told_to_leave_off_deletes_only_what_was_begun() -> None:
    run = Run()
    run.write("a", 4 * TOGETHER)
    Compaction(seen_by(View(run.ground)), due=DUE, limit=10**6).round()
    before = len(run.ground.files)

    def over() -> bool:
        return len(run.ground.files) < before

    Compaction(seen_by(View(run.ground)), over, due=DUE, limit=10**6).round()
    assert 0 < before - len(run.ground.files) <= TOGETHER


@pytest.mark.parametrize("brief", [False, True], ids=["in full", "brief"])
def test_a_reader_may_be_overtaken_again_and_again(brief: bool) -> None:
    """Whatever an index names, and whatever was listed, is gone when it is to be read."""
    run = Run()
    compaction = Compaction(seen_by(View(run.ground)), due=DUE, limit=10**6)
    overtaken: list[str] = []

    class Slow(View):
        def read(self, name: str, limit: int | None = None) -> bytes:
            data = super().read(name, limit)
            if name.startswith(INDEX) and len(overtaken) < 3 * LOOKS:
                overtaken.append(name)
                for _ in range(3):
                    run.write("a", DUE)
                    compaction.round()
                run.write("a", DUE - 1)  # the next look has them in its list
            return data

    run.write("a", DUE)
    compaction.round()
    told = EventReader(seen_by(Slow(run.ground)), brief=brief).read_new()
    assert len(overtaken) == 3 * LOOKS
    assert covered(told) == covered(run.written())


@pytest.mark.parametrize("parts", range(8))
def test_a_list_that_takes_a_while_covers_nothing_that_it_lacks(parts: int) -> None:
    """What is written meanwhile is in it or not: of one writer the later one alone, perhaps."""
    for operation in range(1, 12):
        run = grown()
        leader = Leader(run, parts=parts)
        leader.actor.go_on(operation)
        run.write("a", 3)
        run.write("c", 3)
        leader.actor.go_on(100)
        leader.actor.kill()
        run.settle()
        assert run.is_tidy()
