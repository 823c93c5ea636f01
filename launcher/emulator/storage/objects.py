"""The objects of the emulated Cloud Storage: buckets, generations and preconditions.

Everything is in one folder: ``index.sqlite`` says what there is, ``blobs/`` holds the bytes.
Each change is one transaction, so any number of processes may serve or read the same folder
at once, and what they see is as consistent as Cloud Storage is: an object is there whole or
not at all, and of two that create it with ``ifGenerationMatch=0`` one gets it.

In a bucket with versioning, what is replaced or deleted stays as an old version, until that
generation of it is deleted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from launcher.emulator.storage.blobs import Content, Receiver
from launcher.emulator.storage.errors import Refused
from launcher.emulator.storage.index import Index, Tables
from launcher.emulator.storage.listing import Listing, Query, page
from launcher.emulator.storage.resource import ANY, Bucket, Conditions, Object
from launcher.job.place import is_bucket

NAME_LIMIT = 1024  # bytes of an object's name in UTF-8
COMPONENTS = "componentCount"  # of how many objects one was composed
LASTING = ("storageClass", COMPONENTS)  # fields that no patch changes


@dataclass(frozen=True)
class Source:
    """An object that another is made of.

    Attributes:
        bucket, name: which.
        generation: which version; None for the live one.
        conditions: what must hold of it.
    """

    bucket: str
    name: str
    generation: int | None = None
    conditions: Conditions = ANY


class Objects:
    """All buckets in one folder.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blobs.mkdir(exist_ok=True, mode=0o700)
        self._index = Index(folder / "index.sqlite")

    # --- buckets --------------------------------------------------------------------

    def create_bucket(
        self, name: str, location: str = "US", settings: dict[str, Any] | None = None
    ) -> Bucket:
        """Makes a bucket. Raises Taken, and Refused for an impossible name."""
        if not is_bucket(name):
            raise Refused(f"Invalid bucket name: '{name}'")
        now = time.time()
        bucket = Bucket(name, location, now, now, settings=settings or {})
        with self._index.transaction() as tables:
            tables.add_bucket(bucket)
        return bucket

    def bucket(self, name: str, conditions: Conditions = ANY) -> Bucket:
        """Returns a bucket; NoSuchThing, ConditionFailed, NotChanged."""
        with self._index.transaction(write=False) as tables:
            found = tables.bucket(name)
        conditions.check(found, reading=True)
        return found

    def buckets(self, prefix: str = "", start: str = "") -> list[Bucket]:
        """Returns all buckets from ``start`` on, in order of their names."""
        with self._index.transaction(write=False) as tables:
            found = tables.buckets()
        return [one for one in found if one.name.startswith(prefix) and one.name >= start]

    def change_bucket(
        self, name: str, settings: dict[str, Any], conditions: Conditions = ANY, whole: bool = False
    ) -> Bucket:
        """Changes a bucket's settings; one that is None is taken away.

        With ``whole`` the settings become what is given. Raises NoSuchThing, ConditionFailed.
        """
        with self._index.transaction() as tables:
            found = tables.bucket(name)
            conditions.check(found)
            changed = replace(
                found,
                updated=time.time(),
                metageneration=found.metageneration + 1,
                settings=_merged({} if whole else found.settings, settings),
            )
            tables.store_settings(changed)
        return changed

    def delete_bucket(self, name: str, conditions: Conditions = ANY) -> None:
        """Removes an empty bucket; NoSuchThing, ConditionFailed, or Taken when it is not empty."""
        with self._index.transaction() as tables:
            conditions.check(tables.bucket(name))
            tables.drop_bucket(name)

    # --- objects --------------------------------------------------------------------

    def get(
        self, bucket: str, name: str, conditions: Conditions = ANY, generation: int | None = None
    ) -> Object:
        """Returns an object; NoSuchThing, ConditionFailed, NotChanged."""
        with self._index.transaction(write=False) as tables:
            found = tables.existing(bucket, name, generation)
        conditions.check(found, reading=True)
        return found

    def require(self, bucket: str, name: str, conditions: Conditions) -> None:
        """Raises NoSuchThing or ConditionFailed when an object could not be written."""
        with self._index.transaction(write=False) as tables:
            tables.bucket(bucket)
            conditions.check(tables.find(bucket, name))

    def open(
        self, bucket: str, name: str, conditions: Conditions = ANY, generation: int | None = None
    ) -> tuple[Object, BinaryIO]:
        """Returns an object and its content, which stays whole whatever happens to the object."""
        while True:
            found = self.get(bucket, name, conditions, generation)
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
        try:
            _check_name(name)
            with self._index.transaction() as tables:
                home = tables.bucket(bucket)
                before = tables.find(bucket, name)
                conditions.check(before)
                given = {"storageClass": home.storage_class, **fields}
                dropped = _retire(tables, home, before)
                made = tables.insert(bucket, name, content, given)
        except BaseException:
            self._drop(content.blob)
            raise
        self._drop(dropped)
        return made

    def patch(
        self,
        bucket: str,
        name: str,
        fields: dict[str, Any],
        conditions: Conditions = ANY,
        generation: int | None = None,
        whole: bool = False,
    ) -> Object:
        """Changes the fields of an object; one that is None is taken away.

        With ``whole`` the fields become what is given. Raises NoSuchThing, ConditionFailed, and
        Refused for a change that takes a rewrite.
        """
        with self._index.transaction() as tables:
            found = tables.existing(bucket, name, generation)
            conditions.check(found)
            if fields.get("storageClass") not in (None, found.storage_class):
                raise Refused("An object's storage class changes with a rewrite.")
            lasting = {
                key: found.fields[key]
                for key in ("storageClass", COMPONENTS)
                if key in found.fields
            }
            changed = replace(
                found,
                metageneration=found.metageneration + 1,
                updated=time.time(),
                fields=_merged(lasting if whole else found.fields, fields) | lasting,
            )
            tables.store(changed)
        return changed

    def delete(
        self, bucket: str, name: str, conditions: Conditions = ANY, generation: int | None = None
    ) -> None:
        """Removes an object, or that version of it for good; NoSuchThing, ConditionFailed."""
        with self._index.transaction() as tables:
            found = tables.existing(bucket, name, generation)
            conditions.check(found)
            dropped = _retire(tables, tables.bucket(bucket), found, for_good=generation is not None)
        self._drop(dropped)

    def copy(
        self,
        source: Source,
        bucket: str,
        name: str,
        fields: dict[str, Any],
        conditions: Conditions = ANY,
    ) -> Object:
        """Copies an object to another name, with its fields unless others are given."""
        found, file = self._open_source(source)
        with file:
            content = self.receive(file)
        given = fields or found.fields
        if found.md5 is None:  # put together from parts, and so is the copy
            content = replace(content, md5=None)
        if COMPONENTS in found.fields:
            given = {**given, COMPONENTS: found.fields[COMPONENTS]}
        return self.put(bucket, name, content, given, conditions)

    def move(self, source: Source, name: str, conditions: Conditions = ANY) -> Object:
        """Renames an object within its bucket, atomically."""
        _check_name(name)
        bucket = source.bucket
        with self._index.transaction() as tables:
            home = tables.bucket(bucket)
            found = tables.existing(bucket, source.name, source.generation)
            source.conditions.check(found)
            before = tables.find(bucket, name)
            conditions.check(before)
            if source.name == name:
                raise Refused("The source and the destination are the same object.")
            # An old version keeps its bytes.
            blob = self._copied(found.blob) if home.versioned else found.blob
            dropped = [_retire(tables, home, before), _retire(tables, home, found)]
            content = Content(blob, found.size, found.crc32c, found.md5)
            moved = tables.insert(bucket, name, content, found.fields)
        for one in dropped:
            if one != blob:
                self._drop(one)
        return moved

    def compose(
        self,
        sources: Sequence[Source],
        bucket: str,
        name: str,
        fields: dict[str, Any],
        conditions: Conditions = ANY,
    ) -> Object:
        """Makes one object of the contents of up to 32."""
        if not 1 <= len(sources) <= 32:
            raise Refused("The number of source components must be between 1 and 32.")
        components = 0
        with self.receiving() as receiver:
            for source in sources:
                found, file = self._open_source(source)
                components += int(found.fields.get(COMPONENTS, 1))
                with file:
                    while chunk := file.read(2**20):
                        receiver.write(chunk)
        content = replace(receiver.content(), md5=None)
        return self.put(bucket, name, content, {**fields, COMPONENTS: components}, conditions)

    def list(self, bucket: str, query: Query = Query()) -> Listing:  # noqa: B008
        """Returns a page of a bucket's objects; NoSuchThing, Refused."""
        with self._index.transaction(write=False) as tables:
            tables.bucket(bucket)
            return page(tables, bucket, query)

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

    def joined(self, parts: Sequence[Content]) -> Content:
        """Takes in the bytes of several contents, one after the other, and drops them."""
        with self.receiving() as receiver:
            for part in parts:
                with (self._blobs / part.blob).open("rb") as file:
                    while chunk := file.read(2**20):
                        receiver.write(chunk)
        self.drop(*parts)
        return replace(receiver.content(), md5=None)

    def drop(self, *contents: Content) -> None:
        """Throws away what was received and is no object."""
        for content in contents:
            self._drop(content.blob)

    def _open_source(self, source: Source) -> tuple[Object, BinaryIO]:
        found, file = self.open(source.bucket, source.name, generation=source.generation)
        try:
            source.conditions.check(found)
        except BaseException:
            file.close()
            raise
        return found, file

    def _copied(self, blob: str) -> str:
        with (self._blobs / blob).open("rb") as file:
            return self.receive(file).blob

    def _drop(self, blob: str | None) -> None:
        if blob is not None:
            with suppress(FileNotFoundError):
                (self._blobs / blob).unlink()


def _retire(
    tables: Tables, home: Bucket, found: Object | None, for_good: bool = False
) -> str | None:
    """Makes way for what follows an object; returns the blob that nothing refers to any more."""
    if found is None:
        return None
    tables.remove(found)
    if home.versioned and found.deleted is None and not for_good:
        tables.store(replace(found, deleted=time.time()))
        return None
    return found.blob


def _check_name(name: str) -> None:
    size = len(name.encode(errors="surrogatepass"))
    if not 0 < size <= NAME_LIMIT or {"\r", "\n"} & set(name) or name in (".", ".."):
        raise Refused(f"Invalid object name: {name[:80]!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Refused("An object's name must be valid Unicode.") from None


def _merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for key, value in changes.items():
        if isinstance(value, dict):
            known = merged.get(key)
            merged[key] = _merged(known if isinstance(known, dict) else {}, value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged
