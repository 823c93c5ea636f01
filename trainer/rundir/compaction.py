"""Compaction: many small batches of events become few segments, which readers find by an index.

What is read and written grows with the events that are new, and not with the run: a segment takes
in those before it as long as they are not much larger than what is new, so each event is written
again a few times at most. What is in a segment is deleted a round later, so that whoever has just
listed it can still read it.

A round may end at any operation, and the next goes on from what it finds, whoever does it: only the
index counts, and nothing is deleted before that says where it is (trainer.rundir.segments).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from trainer.rundir.batches import BATCH_LIMIT, Batch, Event, newer, parse_event
from trainer.rundir.directory import RunDirectory
from trainer.rundir.gist import gist
from trainer.rundir.names import EVENTS
from trainer.rundir.retry import StoreUnavailable
from trainer.rundir.segments import (
    READ_LIMIT,
    SEGMENT_LIMIT,
    Index,
    Segment,
    body_of,
    encode_gist,
    encode_segment,
    events_in,
    heading,
    index_name,
    index_version,
    made_for,
    new_file,
    read_index,
)
from trainer.rundir.store import TooLarge

DUE = 64  # batches; fewer cost a reader little
TOGETHER = 64  # batches that are read before it is asked whether they are enough
ALIKE = 2.0  # a segment that is so many times as large as what is new, or less, becomes part of it
KEPT = 1  # indexes before the one that counts: somebody may be about to read it
REFUSALS = 1000  # files that may not be deleted before no more are tried


class Compaction:
    """Compacts the events of a run, a round at a time.

    Args:
        run_dir: the run.
        over: whether to leave off, asked between operations.
        due: how many batches are worth a round.
        limit: bytes up to which segments grow.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        over: Callable[[], bool] = lambda: False,
        *,
        due: int = DUE,
        limit: int = SEGMENT_LIMIT,
    ) -> None:
        self._run_dir = run_dir
        self._store = run_dir.store
        self._over = over
        self._due = due
        self._limit = limit
        self._index = Index()  # that of the last round
        self._left: set[str] = set()  # writers whose batches cannot be read here: they stay
        self._refused: set[str] = set()  # files that may not be deleted

    def round(self) -> bool:
        """Puts batches together, if enough are there; deletes what was in segments before.

        Returns whether there is more to put together already. Raises OSError when the store does
        not do what it is asked to, and ValueError for an index that is damaged or newer.
        """
        files = self._store.files(EVENTS)
        index = self._index = read_index(self._run_dir, self._index)
        batches = [one for one in _uncovered(files, index) if one.writer not in self._left]
        taken = {} if len(batches) < self._due or self._over() else self._take(batches)
        try:
            if taken and not self._over():
                self._put_together(index, taken)
        finally:  # a disk that is full gets room
            self._delete(_left_over(files, index))
        return sum(map(len, taken.values())) >= self._limit and not self._over()

    def _take(self, batches: Sequence[Batch]) -> dict[Batch, bytes]:
        """Reads as many batches as are enough for a segment."""
        taken: dict[Batch, bytes] = {}
        size = 0
        for at in range(0, len(batches), TOGETHER):
            some = batches[at : at + TOGETHER]
            for batch, lines in zip(some, self._store.each(self._lines, some), strict=True):
                if lines is None:
                    self._left.add(batch.writer)
                elif batch.writer not in self._left and size < self._limit:
                    taken[batch] = lines
                    size += len(lines)
            if size >= self._limit or self._over():
                break
        return taken

    def _lines(self, batch: Batch) -> bytes | None:
        """The lines of a batch that are events; None if it cannot be read here."""
        try:
            data = self._store.read(batch.name, BATCH_LIMIT)
        except TooLarge:
            return None
        if newer(data, batch.writer) is not None:
            return None
        return b"".join(line + b"\n" for line in data.splitlines() if parse_event(line) is not None)

    def _put_together(self, index: Index, taken: dict[Batch, bytes]) -> None:
        """Writes a segment, its gist, and an index with it, unless somebody else was quicker."""
        grown = absorbed(index.segments, sum(map(len, taken.values())), self._limit)
        rest = len(index.segments) - grown
        before = [self._store.read(one.name, READ_LIMIT) for one in index.segments[rest:]]
        new = [heading(batch) + lines for batch, lines in taken.items()]
        body = b"".join([*map(body_of, before), *new])
        spans: dict[str, tuple[int, int]] = {}
        events: list[Event] = []
        for batch, event in events_in(body):
            first, end = spans.get(batch.writer, (batch.number, 0))
            spans[batch.writer] = min(first, batch.number), max(end, batch.number + 1)
            events.append(event)
        times = [float(event["time"]) for event in events] or [0.0]
        version, data = index.version + 1, encode_segment(body)
        segment = Segment(new_file(version), len(events), len(data), min(times), max(times))
        self._store.write(segment.name, data)
        self._store.write(segment.gist, encode_gist(spans, gist(events)))
        covers = {**index.covers, **{batch.writer: batch.number + 1 for batch in taken}}
        following = Index(version, (*index.segments[:rest], segment), covers)
        if not self._over():
            self._run_dir.create_json(index_name(version), following.to_json())

    def _delete(self, files: Iterable[str]) -> None:
        """Deletes what it may. One that may not be deleted keeps no other, and is not tried again.

        Raises the first refusal; StoreUnavailable at once.
        """
        doomed = [file for file in files if file not in self._refused]
        refusals: list[OSError] = []
        for at in range(0, len(doomed), TOGETHER):
            if self._over() or len(self._refused) >= REFUSALS:
                break
            found = self._store.each(self._refusal, doomed[at : at + TOGETHER])
            refusals += [refusal for refusal in found if refusal is not None]
        if refusals:
            raise refusals[0]

    def _refusal(self, file: str) -> OSError | None:
        """Deletes a file; returns why the store does not let it, if it does not."""
        try:
            self._store.delete_file(file)
        except StoreUnavailable:
            raise
        except OSError as refusal:
            self._refused.add(file)
            return refusal
        return None


def absorbed(segments: Sequence[Segment], size: int, limit: int) -> int:
    """How many of the newest segments become part of the next one.

    Args:
        segments: in order.
        size: bytes that are new.
        limit: bytes that they may be together.
    """
    count = 0
    for segment in reversed(segments):
        if segment.bytes > ALIKE * size or segment.bytes + size > limit:
            break
        size += segment.bytes
        count += 1
    return count


def _uncovered(files: Sequence[str], index: Index) -> Iterator[Batch]:
    """The batches that are in no segment, of each writer in order.

    A list is not made in one moment: behind a batch that it lacks it may have the next. That one
    has to wait until the list has both, or the other would count as covered.
    """
    found = {batch for batch in map(Batch.of, files) if batch is not None}
    for writer in sorted({batch.writer for batch in found}):
        batch = Batch(writer, index.covers.get(writer, 0))
        while batch in found:
            yield batch
            batch = Batch(writer, batch.number + 1)


def _left_over(files: Sequence[str], index: Index) -> Iterator[str]:
    """Which files in ``events/`` nobody needs who goes by an index, or by a later one."""
    named = {one.file for one in index.segments}
    for path in files:
        folder, _, file = path.partition("/")
        version, batch = index_version(file), Batch.of(path)
        match folder:
            case "index":
                unneeded = version is not None and version < index.version - KEPT
            case "segments" | "gists":
                made = made_for(file)
                unneeded = made is not None and made <= index.version and file not in named
            case _:
                unneeded = batch is not None and index.covered(batch)
        if unneeded:
            yield f"{EVENTS}/{path}"
