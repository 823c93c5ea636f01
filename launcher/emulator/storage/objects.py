"""The objects of the emulated Cloud Storage: buckets, generations and preconditions.

Everything is in one folder: ``index.sqlite`` says what there is, ``blobs/`` holds the bytes.
Each change is one transaction, so any number of processes may serve or read the same folder
at once, and what they see is as consistent as Cloud Storage is: an object is there whole or
not at all, and of two that create it with ``ifGenerationMatch=0`` one gets it.

Not emulated: old versions of objects, ACLs, holds, retention policies.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from launcher.emulator.storage.blobs import Content, Receiver

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
NAME_LIMIT = 1024  # bytes of an object's name in UTF-8

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, location TEXT, created REAL);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT, name TEXT, generation INTEGER, metageneration INTEGER, blob TEXT,
    size INTEGER, crc32c TEXT, md5 TEXT, created REAL, updated REAL, fields TEXT,
    PRIMARY KEY (bucket, name)
);
CREATE TABLE IF NOT EXISTS counter (last INTEGER);
"""


class NoSuchThing(LookupError):
    """There is no such bucket or object; the message says which."""


class ConditionFailed(Exception):
    """A precondition of the request does not hold."""


class NotChanged(Exception):
    """A read asked for anything but the generation that is there."""


class Refused(ValueError):
    """The request makes no sense; the message says why."""


class Taken(Exception):
    """The bucket exists already, or is not empty."""


@dataclass(frozen=True)
class Bucket:
    """A bucket; ``created`` is Unix time in seconds."""

    name: str
    location: str
    created: float


@dataclass(frozen=True)
class Object:
    """One object as it is now.

    Attributes:
        generation: changes with the content; higher than all before it.
        metageneration: counts changes of the fields of this generation, from 1.
        blob: the name of the file with its bytes.
        crc32c, md5: checksums of the content, in base64 as the API has them.
        created, updated: Unix time in seconds.
        fields: what its owner says about it: contentType, metadata, …
    """

    bucket: str
    name: str
    generation: int
    metageneration: int
    blob: str
    size: int
    crc32c: str
    md5: str
    created: float
    updated: float
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """What must hold of an object for a request to be carried out; generation 0: no object."""

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None

    def check(self, found: Object | None, *, reading: bool = False) -> None:
        """Raises ConditionFailed, or NotChanged for a read, when they do not hold."""
        generation = found.generation if found else 0
        metageneration = found.metageneration if found else 0
        if self.generation_match not in (None, generation):
            raise ConditionFailed
        if self.metageneration_match not in (None, metageneration):
            raise ConditionFailed
        same = self.generation_not_match == generation
        if same or self.metageneration_not_match == metageneration:
            raise NotChanged if reading else ConditionFailed


ANY = Conditions()


@dataclass(frozen=True)
class Listing:
    """One page of a listing; ``next`` continues it."""

    objects: list[Object]
    prefixes: list[str]
    next: str | None


class Objects:
    """All buckets in one folder.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._index = folder / "index.sqlite"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blobs.mkdir(exist_ok=True, mode=0o700)
        with self._transaction() as index:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                index.execute(statement)
            if index.execute("SELECT last FROM counter").fetchone() is None:
                index.execute("INSERT INTO counter VALUES (0)")

    # --- buckets --------------------------------------------------------------------

    def create_bucket(self, name: str, location: str = "US") -> Bucket:
        """Makes a bucket. Raises Taken, and Refused for an impossible name."""
        if not BUCKET_NAME.fullmatch(name):
            raise Refused(f"Invalid bucket name: '{name}'")
        bucket = Bucket(name, location, time.time())
        try:
            with self._transaction() as index:
                index.execute("INSERT INTO buckets VALUES (?, ?, ?)", (name, location, time.time()))
        except sqlite3.IntegrityError:
            raise Taken(f"The bucket {name} exists already.") from None
        return bucket

    def bucket(self, name: str) -> Bucket:
        """Returns a bucket; NoSuchThing."""
        with self._transaction(write=False) as index:
            return self._bucket(index, name)

    def buckets(self, prefix: str = "") -> list[Bucket]:
        """Returns all buckets in order of their names."""
        with self._transaction(write=False) as index:
            rows = index.execute("SELECT * FROM buckets ORDER BY name").fetchall()
        return [Bucket(*row) for row in rows if row[0].startswith(prefix)]

    def delete_bucket(self, name: str) -> None:
        """Removes an empty bucket; NoSuchThing, or Taken when it is not empty."""
        with self._transaction() as index:
            self._bucket(index, name)
            if index.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise Taken("The bucket you tried to delete is not empty.")
            index.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # --- objects --------------------------------------------------------------------

    def get(self, bucket: str, name: str, conditions: Conditions = ANY) -> Object:
        """Returns an object; NoSuchThing, ConditionFailed, NotChanged."""
        with self._transaction(write=False) as index:
            found = self._existing(index, bucket, name)
        conditions.check(found, reading=True)
        return found

    def open(self, bucket: str, name: str, conditions: Conditions = ANY) -> tuple[Object, BinaryIO]:
        """Returns an object and its content, which stays whole whatever happens to the object."""
        while True:
            found = self.get(bucket, name, conditions)
            try:
                return found, (self._blobs / found.blob).open("rb")
            except FileNotFoundError:  # replaced since it was looked up
                continue

    def put(
        self,
        bucket: str,
        name: str,
        content: Content,
        fields: dict[str, Any],
        conditions: Conditions = ANY,
    ) -> Object:
        """Makes ``content`` the object ``name``; ConditionFailed and the content is dropped."""
        _check_name(name)
        try:
            with self._transaction() as index:
                self._bucket(index, bucket)
                before = self._find(index, bucket, name)
                conditions.check(before)
                made = self._insert(index, bucket, name, content, fields)
        except BaseException:
            self._drop(content.blob)
            raise
        if before is not None:
            self._drop(before.blob)
        return made

    def patch(
        self, bucket: str, name: str, fields: dict[str, Any], conditions: Conditions = ANY
    ) -> Object:
        """Changes the fields of an object; one that is None is taken away."""
        with self._transaction() as index:
            found = self._existing(index, bucket, name)
            conditions.check(found)
            changed = replace(
                found,
                metageneration=found.metageneration + 1,
                updated=time.time(),
                fields=_merged(found.fields, fields),
            )
            self._store(index, changed)
        return changed

    def delete(self, bucket: str, name: str, conditions: Conditions = ANY) -> None:
        """Removes an object; NoSuchThing, ConditionFailed."""
        with self._transaction() as index:
            found = self._existing(index, bucket, name)
            conditions.check(found)
            index.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
        self._drop(found.blob)

    def copy(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        fields: dict[str, Any],
        source_conditions: Conditions = ANY,
        conditions: Conditions = ANY,
    ) -> Object:
        """Copies an object to another name, with its fields unless others are given."""
        found, file = self.open(*source, source_conditions)
        with file:
            content = self.receive(file)
        return self.put(*target, content, fields or found.fields, conditions)

    def move(
        self,
        bucket: str,
        name: str,
        target: str,
        source_conditions: Conditions = ANY,
        conditions: Conditions = ANY,
    ) -> Object:
        """Renames an object, atomically."""
        _check_name(target)
        with self._transaction() as index:
            found = self._existing(index, bucket, name)
            source_conditions.check(found)
            before = self._find(index, bucket, target)
            conditions.check(before)
            if name == target:
                raise Refused("The source and the destination are the same object.")
            index.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
            content = Content(found.blob, found.size, found.crc32c, found.md5)
            moved = self._insert(index, bucket, target, content, found.fields)
        if before is not None:
            self._drop(before.blob)
        return moved

    def compose(
        self,
        bucket: str,
        sources: Sequence[tuple[str, Conditions]],
        target: str,
        fields: dict[str, Any],
        conditions: Conditions = ANY,
    ) -> Object:
        """Makes one object of the contents of up to 32."""
        if not 1 <= len(sources) <= 32:
            raise Refused("The number of source components must be between 1 and 32.")
        with self.receiving() as receiver:
            for name, condition in sources:
                _, file = self.open(bucket, name, condition)
                with file:
                    while chunk := file.read(2**20):
                        receiver.write(chunk)
        return self.put(bucket, target, receiver.content(), fields, conditions)

    def list(
        self,
        bucket: str,
        prefix: str = "",
        delimiter: str = "",
        start: str = "",
        end: str = "",
        limit: int = 1000,
    ) -> Listing:
        """Lists objects in order of their names.

        Args:
            bucket: where.
            prefix: only names that begin so.
            delimiter: names that have it behind the prefix are summed up as prefixes.
            start: the first name to list, or where the page before ended.
            end: the first name not to list, if any.
            limit: how many objects and prefixes at most.
        """
        objects: list[Object] = []
        prefixes: list[str] = []
        position = max(prefix, start)
        with self._transaction(write=False) as index:
            self._bucket(index, bucket)
            while True:
                row = index.execute(
                    "SELECT * FROM objects WHERE bucket = ? AND name >= ? ORDER BY name LIMIT 1",
                    (bucket, position),
                ).fetchone()
                name = row[1] if row else ""
                if row is None or not name.startswith(prefix) or (end and name >= end):
                    return Listing(objects, prefixes, None)
                if len(objects) + len(prefixes) == limit:
                    return Listing(objects, prefixes, position)
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                if cut < 0:
                    objects.append(_from_row(row))
                    position = name + "\0"
                else:
                    prefixes.append(name[: cut + len(delimiter)])
                    position = _behind(prefixes[-1])

    # --- content --------------------------------------------------------------------

    def receive(self, source: BinaryIO) -> Content:
        """Takes in the bytes of ``source`` up to its end."""
        with self.receiving() as receiver:
            while chunk := source.read(2**20):
                receiver.write(chunk)
        return receiver.content()

    def receiver(self) -> Receiver:
        """A receiver of bytes, which its user ends or drops."""
        return Receiver(self._blobs / uuid.uuid4().hex)

    @contextmanager
    def receiving(self) -> Iterator[Receiver]:
        """A receiver of bytes; what it has is dropped if the block raises."""
        receiver = self.receiver()
        try:
            yield receiver
        except BaseException:
            receiver.drop()
            raise

    def _drop(self, blob: str) -> None:
        with suppress(FileNotFoundError):
            (self._blobs / blob).unlink()

    # --- the index ------------------------------------------------------------------

    @contextmanager
    def _transaction(self, write: bool = True) -> Iterator[sqlite3.Connection]:
        index = sqlite3.connect(self._index, timeout=60.0, isolation_level=None)
        try:
            # After a power cut a bucket may be older than it was; it is a test double's.
            index.execute("PRAGMA synchronous = OFF")
            index.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield index
            index.execute("COMMIT")
        finally:
            index.close()  # rolls back what was not committed

    def _bucket(self, index: sqlite3.Connection, name: str) -> Bucket:
        row = index.execute("SELECT * FROM buckets WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NoSuchThing("The specified bucket does not exist.")
        return Bucket(*row)

    def _find(self, index: sqlite3.Connection, bucket: str, name: str) -> Object | None:
        row = index.execute(
            "SELECT * FROM objects WHERE bucket = ? AND name = ?", (bucket, name)
        ).fetchone()
        return None if row is None else _from_row(row)

    def _existing(self, index: sqlite3.Connection, bucket: str, name: str) -> Object:
        self._bucket(index, bucket)
        found = self._find(index, bucket, name)
        if found is None:
            raise NoSuchThing(f"No such object: {bucket}/{name}")
        return found

    def _insert(
        self,
        index: sqlite3.Connection,
        bucket: str,
        name: str,
        content: Content,
        fields: dict[str, Any],
    ) -> Object:
        (last,) = index.execute("SELECT last FROM counter").fetchone()
        now = time.time()
        generation = max(last + 1, int(now * 1e6))
        index.execute("UPDATE counter SET last = ?", (generation,))
        made = Object(
            bucket,
            name,
            generation,
            1,
            content.blob,
            content.size,
            content.crc32c,
            content.md5,
            now,
            now,
            fields,
        )
        self._store(index, made)
        return made

    def _store(self, index: sqlite3.Connection, one: Object) -> None:
        values = [*(getattr(one, column) for column in _COLUMNS), json.dumps(one.fields)]
        marks = ", ".join("?" * len(values))
        index.execute(f"INSERT OR REPLACE INTO objects VALUES ({marks})", values)


_COLUMNS = (
    "bucket",
    "name",
    "generation",
    "metageneration",
    "blob",
    "size",
    "crc32c",
    "md5",
    "created",
    "updated",
)


def _from_row(row: Sequence[Any]) -> Object:
    return Object(**dict(zip(_COLUMNS, row[:-1], strict=True)), fields=json.loads(row[-1]))


def _check_name(name: str) -> None:
    size = len(name.encode(errors="surrogatepass"))
    if not 0 < size <= NAME_LIMIT or {"\r", "\n"} & set(name) or name in (".", ".."):
        raise Refused(f"Invalid object name: {name[:80]!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Refused("An object's name must be valid Unicode.") from None


def _behind(prefix: str) -> str:
    """The first text behind everything that begins with ``prefix``."""
    following = ord(prefix[-1]) + 1
    if following > 0x10FFFF:
        raise Refused("This delimiter is not supported.")
    return prefix[:-1] + chr(0xE000 if following == 0xD800 else following)


def _merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged
