"""The local target's buckets, read and written without a server.

On the local target ``gs://`` means buckets in ``SWELL_HOME/buckets``. VMs reach them as they
would reach Cloud Storage, through the emulator's server; this file system is for the launcher,
which needs them before there is an emulator and after it has gone.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

from launcher.emulator.storage.errors import ConditionFailed, NoSuchThing, Taken
from launcher.emulator.storage.listing import BEGIN, Query
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.resource import ANY, Conditions, Object


class LocalBuckets(AbstractFileSystem):  # type: ignore[misc]
    """The objects in a folder as an fsspec file system: what trainer.rundir.store needs of one.

    Args:
        folder: the buckets' folder.
    """

    protocol = "gs"
    cachable = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._objects = Objects(folder)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Writes an object; with mode "create" FileExistsError if it is there.

        A bucket that is not there is made: nobody has to set up what is only emulated.
        """
        bucket, name = self._split(path)
        with suppress(Taken):
            self._objects.create_bucket(bucket)
        with self._objects.receiving() as receiver:
            receiver.write(value)
        conditions = Conditions(generation_match=0) if mode == "create" else ANY
        try:
            self._objects.put(bucket, name, receiver.content(), {}, conditions)
        except ConditionFailed:
            raise FileExistsError(path) from None

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Returns the bytes of an object from ``start`` to before ``end``."""
        try:
            _, file = self._objects.open(*self._split(path))
        except NoSuchThing:
            raise FileNotFoundError(path) from None
        with file:
            file.seek(start or 0)
            return file.read(-1 if end is None else end - (start or 0))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes the bucket of ``path``; folders need no making."""
        with suppress(Taken):
            self._objects.create_bucket(self._split(path)[0])

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Returns what there is at ``path``: an object, or what looks like a folder."""
        bucket, name = self._split(path)
        try:
            return _described(self._objects.get(bucket, name))
        except NoSuchThing:
            self.ls(path)
            return _folder(f"{bucket}/{name}")

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """Lists what is directly below ``path``."""
        bucket, name = self._split(path)
        prefix = f"{name}/" if name else ""
        found: list[dict[str, Any]] = []
        start = BEGIN
        try:
            while True:
                page = self._objects.list(bucket, Query(prefix, "/", start))
                found += [_described(one) for one in page.objects]
                found += [_folder(f"{bucket}/{one}".rstrip("/")) for one in page.prefixes]
                if page.next is None:
                    break
                start = page.next
        except NoSuchThing:
            raise FileNotFoundError(path) from None
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [one["name"] for one in found]

    def rm_file(self, path: str) -> None:
        """Removes one object."""
        try:
            self._objects.delete(*self._split(path))
        except NoSuchThing:
            raise FileNotFoundError(path) from None

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Removes objects; folders go with the last of theirs."""
        for one in self.find(path) if recursive else [path]:
            self.rm_file(one)

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, name = str(self._strip_protocol(path)).partition("/")
        return bucket, name


def _described(one: Object) -> dict[str, Any]:
    return {"name": f"{one.bucket}/{one.name}", "size": one.size, "type": "file"}


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}
