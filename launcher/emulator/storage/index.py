"""The index of the emulated Cloud Storage: what there is, in one SQLite file.

Each change is one transaction. ``objects`` has what is live and ``noncurrent`` the old versions;
``settings`` has what was said about buckets since they were made. Folders of before there were the
last two are read as they are, and go on serving the emulators of that time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.emulator.storage.blobs import Content
from launcher.emulator.storage.errors import NoSuchBucket, NoSuchThing, Taken
from launcher.emulator.storage.resource import Bucket, Object

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, location TEXT, created REAL);
CREATE TABLE IF NOT EXISTS settings (
    bucket TEXT PRIMARY KEY, metageneration INTEGER, updated REAL, settings TEXT
);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT, name TEXT, generation INTEGER, metageneration INTEGER, blob TEXT,
    size INTEGER, crc32c TEXT, md5 TEXT, created REAL, updated REAL, fields TEXT,
    PRIMARY KEY (bucket, name)
);
CREATE TABLE IF NOT EXISTS noncurrent (
    bucket TEXT, name TEXT, generation INTEGER, metageneration INTEGER, blob TEXT,
    size INTEGER, crc32c TEXT, md5 TEXT, created REAL, updated REAL, fields TEXT, deleted REAL,
    PRIMARY KEY (bucket, name, generation)
);
CREATE TABLE IF NOT EXISTS counter (last INTEGER);
"""
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
_BUCKETS = """
SELECT name, location, created, coalesce(updated, created), coalesce(metageneration, 1),
    coalesce(settings, '{}') FROM buckets LEFT JOIN settings ON bucket = name
"""
_VERSIONS = "SELECT *, NULL AS deleted FROM objects UNION ALL SELECT * FROM noncurrent"

Position = tuple[str, int]  # a name and a generation: where a listing goes on


class Index:
    """The index in one file, which any number of processes may use at once.

    Args:
        file: made if it is not there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        with self.transaction() as tables:
            tables.make()

    @contextmanager
    def transaction(self, write: bool = True) -> Iterator[Tables]:
        """One transaction; nothing of it happens if the block raises."""
        connection = sqlite3.connect(self._file, timeout=60.0, isolation_level=None)
        try:
            # After a power cut a bucket may be older than it was; it is a test double's.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield Tables(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed


class Tables:
    """What the index says within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def make(self) -> None:
        """Makes the tables that are not there."""
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self._execute(statement)
        if self._execute("SELECT last FROM counter").fetchone() is None:
            self._execute("INSERT INTO counter VALUES (0)")

    # --- buckets --------------------------------------------------------------------

    def bucket(self, name: str) -> Bucket:
        """Returns a bucket; NoSuchBucket."""
        row = self._execute(f"{_BUCKETS} WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NoSuchBucket
        return _bucket(row)

    def buckets(self) -> list[Bucket]:
        """Returns all buckets in order of their names."""
        return [_bucket(row) for row in self._execute(f"{_BUCKETS} ORDER BY name")]

    def add_bucket(self, bucket: Bucket) -> None:
        """Adds a new bucket; Taken."""
        try:
            values = (bucket.name, bucket.location, bucket.created)
            self._execute("INSERT INTO buckets VALUES (?, ?, ?)", values)
        except sqlite3.IntegrityError:
            raise Taken(f"The bucket {bucket.name} exists already.") from None
        self.store_settings(bucket)

    def store_settings(self, bucket: Bucket) -> None:
        """Makes a bucket's settings what they are now."""
        values = (bucket.name, bucket.metageneration, bucket.updated, json.dumps(bucket.settings))
        self._execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?, ?)", values)

    def drop_bucket(self, name: str) -> None:
        """Removes a bucket; Taken when anything is in it, old versions included."""
        for table in ("objects", "noncurrent"):
            if self._execute(f"SELECT 1 FROM {table} WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise Taken("The bucket you tried to delete is not empty.")
        self._execute("DELETE FROM buckets WHERE name = ?", (name,))
        self._execute("DELETE FROM settings WHERE bucket = ?", (name,))

    # --- objects --------------------------------------------------------------------

    def find(self, bucket: str, name: str, generation: int | None = None) -> Object | None:
        """Returns the live object of that name, or its version ``generation``, if there is one."""
        if generation is None:
            return self._first(
                "SELECT *, NULL FROM objects WHERE bucket = ? AND name = ?", (bucket, name)
            )
        return self._first(
            f"SELECT * FROM ({_VERSIONS}) WHERE bucket = ? AND name = ? AND generation = ?",
            (bucket, name, generation),
        )

    def existing(self, bucket: str, name: str, generation: int | None = None) -> Object:
        """Returns the same; NoSuchThing."""
        self.bucket(bucket)
        found = self.find(bucket, name, generation)
        if found is None:
            version = "" if generation is None else f"#{generation}"
            raise NoSuchThing(f"No such object: {bucket}/{name}{version}")
        return found

    def versions(self, bucket: str, name: str) -> list[Object]:
        """Returns all versions of an object, the oldest first."""
        rows = self._execute(
            f"SELECT * FROM ({_VERSIONS}) WHERE bucket = ? AND name = ? ORDER BY generation",
            (bucket, name),
        )
        return [_object(row) for row in rows]

    def following(self, bucket: str, position: Position, versions: bool) -> Object | None:
        """Returns the first object at ``position`` or behind it, old versions included or not."""
        if versions:
            return self._first(
                f"SELECT * FROM ({_VERSIONS}) WHERE bucket = ? AND (name, generation) >= (?, ?)"
                " ORDER BY name, generation LIMIT 1",
                (bucket, *position),
            )
        return self._first(
            "SELECT *, NULL FROM objects WHERE bucket = ? AND name >= ? ORDER BY name LIMIT 1",
            (bucket, position[0]),
        )

    def insert(self, bucket: str, name: str, content: Content, fields: dict[str, Any]) -> Object:
        """Makes ``content`` the live object of that name, and returns it."""
        (last,) = self._execute("SELECT last FROM counter").fetchone()
        now = time.time()
        generation = max(last + 1, int(now * 1e6))
        self._execute("UPDATE counter SET last = ?", (generation,))
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
        self.store(made)
        return made

    def store(self, one: Object) -> None:
        """Makes a version what it is now."""
        values = [*(getattr(one, column) for column in _COLUMNS), json.dumps(one.fields)]
        if one.deleted is not None:
            values.append(one.deleted)
        table = "objects" if one.deleted is None else "noncurrent"
        marks = ", ".join("?" * len(values))
        self._execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)

    def remove(self, one: Object) -> None:
        """Removes a version."""
        table = "objects" if one.deleted is None else "noncurrent"
        self._execute(
            f"DELETE FROM {table} WHERE bucket = ? AND name = ? AND generation = ?",
            (one.bucket, one.name, one.generation),
        )

    def _first(self, query: str, values: Sequence[Any]) -> Object | None:
        row = self._execute(query, values).fetchone()
        return None if row is None else _object(row)


def _bucket(row: Sequence[Any]) -> Bucket:
    name, location, created, updated, metageneration, settings = row
    return Bucket(name, location, created, updated, metageneration, json.loads(settings))


def _object(row: Sequence[Any]) -> Object:
    *values, fields, deleted = row
    known = dict(zip(_COLUMNS, values, strict=True))
    return Object(**known, fields=json.loads(fields), deleted=deleted)
