"""Segments: batches of events that were put together, and the index that says which there are.

::

    events/index/000000012.json              the segments there are, and which batches are in them
    events/segments/000000012-5f0c.jsonl     batches as they were written, one after another
    events/gists/000000012-5f0c.jsonl        the same events, with steps told together

Only the index with the highest number counts, its version. It is created exclusively, and only by
whoever has read the one before: so each follows from the one before, and a batch that is covered by
one is covered by all that follow. Two may compact at a time, in turn or late: of those who start
from the same index one creates the next. What is written never changes, and is named after the
version that it was made for: once that version exists, whatever of it the index does not name is
nobody's any more (trainer.rundir.compaction).

Readers list batches first, and look at the index afterwards: what had been deleted before the list
was made, it covers.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.rundir import formats
from trainer.rundir.batches import Batch, Event, encode, parse_event
from trainer.rundir.directory import DAMAGED, RunDirectory
from trainer.rundir.names import EVENTS
from trainer.rundir.numbers import dumped
from trainer.rundir.store import Store
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import Unusable

INDEX = f"{EVENTS}/index"
SEGMENTS = f"{EVENTS}/segments"
GISTS = f"{EVENTS}/gists"

SEGMENT_LIMIT = 4 * 2**20  # bytes up to which segments grow; one with larger batches exceeds it
READ_LIMIT = 2**28  # bytes of a segment that a reader takes in

_INDEX_FILE = re.compile(r"([0-9]{9,12})\.json")
_SEGMENT_FILE = re.compile(r"([0-9]{9,12})-[0-9a-f]+\.jsonl")


@dataclass(frozen=True)
class Segment:
    """What the index says of a segment.

    Attributes:
        file: of the segment, and of its gist.
        events: how many are in it.
        bytes: its size.
        since, until: the times of its first and its last event, in Unix seconds.
    """

    file: str
    events: int
    bytes: int
    since: float
    until: float

    @property
    def name(self) -> str:
        """Its name in the run directory."""
        return f"{SEGMENTS}/{self.file}"

    @property
    def gist(self) -> str:
        """Its gist's name in the run directory."""
        return f"{GISTS}/{self.file}"


@dataclass(frozen=True)
class Index:
    """Which segments there are.

    Attributes:
        version: its number; 0 while nothing has been compacted.
        segments: in the order in which their batches were found.
        covers: by writer: the batches of lower numbers are in the segments.
    """

    version: int = 0
    segments: tuple[Segment, ...] = ()
    covers: Mapping[str, int] = field(default_factory=dict)

    def covered(self, batch: Batch) -> bool:
        """Whether a batch is in a segment."""
        return batch.number < self.covers.get(batch.writer, 0)

    def to_json(self) -> dict[str, Any]:
        """What its file holds."""
        segments = [asdict(one) for one in self.segments]
        return {**formats.SEGMENTS.stamp(), "segments": segments, "covers": dict(self.covers)}


def index_name(version: int) -> str:
    """The name of an index in the run directory."""
    return f"{INDEX}/{version:09d}.json"


def index_version(file: str) -> int | None:
    """The version of an index, by its file; None for anything else."""
    found = _INDEX_FILE.fullmatch(file)
    return int(found[1]) if found else None


def new_file(version: int) -> str:
    """A file that nobody else has, for a segment that is made for a version of the index."""
    return f"{version:09d}-{secrets.token_hex(4)}.jsonl"


def made_for(file: str) -> int | None:
    """The version of the index that a segment was made for; None if it is no segment."""
    found = _SEGMENT_FILE.fullmatch(file)
    return int(found[1]) if found else None


def newest_version(store: Store) -> int:
    """The highest version of the index; 0 without any."""
    versions = (index_version(file) for file in store.names(INDEX))
    return max((one for one in versions if one is not None), default=0)


def read_index(run_dir: RunDirectory, known: Index = Index()) -> Index:
    """Returns the index that counts.

    Args:
        run_dir: the run.
        known: the one that counted before: it is not read again, and none before it counts.

    Raises FormatError for one of a newer format, another ValueError for one that is damaged, and
    OSError: FileNotFoundError when it has been replaced meanwhile.
    """
    version = newest_version(run_dir.store)
    return known if version <= known.version else _parse_index(run_dir, version)


def _parse_index(run_dir: RunDirectory, version: int) -> Index:
    name = index_name(version)
    value = run_dir.read_json(name)
    formats.SEGMENTS.found(value, name)
    try:
        segments = tuple(Segment(**one) for one in value["segments"])
        covers = {str(writer): int(number) for writer, number in value["covers"].items()}
        if not all(made_for(one.file) and one.bytes >= 0 for one in segments):
            raise ValueError("a segment has a wrong name or size")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unusable(DAMAGED, f"{run_dir.url}/{name} is damaged: {error!r}") from None
    return Index(version, segments, covers)


# --- what is in a segment -----------------------------------------------------------


def heading(batch: Batch) -> bytes:
    """The line before a batch in a segment."""
    return json.dumps({"batch": [batch.writer, batch.number]}).encode() + b"\n"


def encode_segment(body: bytes) -> bytes:
    """A segment of batches, each with its heading."""
    return encode([], formats.SEGMENTS.stamp()) + body


def body_of(segment: bytes) -> bytes:
    """A segment without its first line."""
    return segment.partition(b"\n")[2]


def encode_gist(spans: Mapping[str, tuple[int, int]], events: Iterable[Event]) -> bytes:
    """A gist of events, and which batches they come from: see ``spans_in``."""
    return encode(map(dumped, events), {**formats.SEGMENTS.stamp(), "batches": spans})


def events_in(body: bytes) -> Iterator[tuple[Batch, Event]]:
    """Yields the events of a segment, each with its batch."""
    batch = Batch("", 0)
    for line in body.splitlines():
        if (event := parse_event(line)) is not None:
            yield batch, event
        else:
            batch = _batch(line) or batch


def spans_in(gist: bytes, where: str) -> dict[str, tuple[int, int]]:
    """Which batches a gist tells of: by writer, from which number on, and up to which.

    Args:
        gist: the gist.
        where: its URL, for the error.

    Raises ValueError when it does not say.
    """
    try:
        spans = parse_json(gist.partition(b"\n")[0])["batches"]
        return {str(writer): (int(first), int(end)) for writer, (first, end) in spans.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise Unusable(DAMAGED, f"{where} is damaged: it does not say what it tells of") from None


def _batch(line: bytes) -> Batch | None:
    try:
        writer, number = parse_json(line)["batch"]
    except (ValueError, TypeError, KeyError):
        return None
    known = isinstance(writer, str) and isinstance(number, int)
    return Batch(writer, number) if known else None
