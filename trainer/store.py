"""Where a run's files live: one interface over any fsspec file system.

Three operations carry everything that must be durable: ``write`` (replace),
``create`` (exclusive) and ``read``. Exclusive create is the only compare-and-swap
that Swell needs; nothing relies on append, and nothing outside this file relies
on rename. Readers never see half a file: object stores publish an object whole,
and on a local disk a file is written aside and linked into place.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class TooLarge(ValueError):
    """A file is larger than its reader is willing to take in."""


class Store:
    """The files under one URL, named by relative ``/``-separated paths.

    Args:
        url: any fsspec URL or a local path: ``gs://bucket/runs/7``, ``memory://x``, ``/tmp/x``.
    """

    def __init__(self, url: str) -> None:
        fs, root = fsspec.core.url_to_fs(url)
        self.fs: Any = fs
        self.root = str(root).rstrip("/")
        self.url = self.root if isinstance(fs, LocalFileSystem) else url.rstrip("/")
        self._local = isinstance(fs, LocalFileSystem)

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine's own file system."""
        return self._local

    def path(self, name: str) -> str:
        """The full path of ``name`` inside the file system."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Returns the bytes of ``name``.

        Raises FileNotFoundError when it does not exist and TooLarge when it holds
        more than ``limit`` bytes.
        """
        with self._errors_of(name), self.fs.open(self.path(name), "rb") as file:
            data: bytes = file.read(-1 if limit is None else limit + 1)
        if limit is not None and len(data) > limit:
            raise TooLarge(f"{self.url}/{name} is larger than {limit} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Writes ``name``, replacing what was there."""
        if self._local:
            with self._written_aside(name, data) as aside:
                os.replace(aside, self.path(name))
        else:
            with self._errors_of(name):
                self.fs.pipe_file(self.path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Writes ``name`` only if it does not exist. Returns whether this call created it."""
        try:
            if self._local:
                with self._written_aside(name, data) as aside:
                    os.link(aside, self.path(name))
            else:
                # GCS: ifGenerationMatch=0. Other stores honour mode="create" in their own way.
                with self._errors_of(name):
                    self.fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def names(self, folder: str = "") -> list[str]:
        """The sorted names directly inside ``folder`` (files and folders); [] if there is none."""
        try:
            with self._errors_of(folder):
                found = self.fs.ls(self.path(folder), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found}
        return sorted(name for name in names if not name.startswith("."))

    def exists(self, name: str) -> bool:
        """Whether the file or folder ``name`` exists."""
        with self._errors_of(name):
            self.fs.invalidate_cache()
            return bool(self.fs.exists(self.path(name)))

    def delete(self, name: str) -> None:
        """Removes the file or the whole folder ``name``; nothing happens if it is not there."""
        try:
            with self._errors_of(name):
                self.fs.rm(self.path(name), recursive=True)
        except FileNotFoundError:
            return

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Makes an OSError of whatever exceptions an object store's client has of its own."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.url}/{name}: {type(error).__name__}: {error}") from error

    @contextmanager
    def _written_aside(self, name: str, data: bytes) -> Iterator[str]:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".aside-{secrets.token_hex(8)}"
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield str(aside)
        finally:
            aside.unlink(missing_ok=True)
