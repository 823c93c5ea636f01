"""Where a run's files live: one interface over any fsspec file system.

Three operations carry everything that must be durable: ``write`` (replace),
``create`` (exclusive) and ``read``. Exclusive create is the only compare-and-swap
that Swell needs; nothing relies on append, and nothing outside this file relies
on rename. Readers never see half a file: object stores publish an object whole,
and on a local disk a file is written aside and linked into place.

What an object store refuses for a moment (429, 503, a connection that broke) is tried
again, with growing waits; only ``create`` is not, whose second attempt could lose against
its first: see trainer.rundir.exclusive.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from trainer.rundir import spare
from trainer.rundir.private import make_private
from trainer.rundir.retry import (
    NO_ROOM,
    PATIENT,
    Backoff,
    StoreUnavailable,
    http_status,
    is_transient,
)

# Before gcsfs is imported: its probe for other kinds of buckets can hang for a minute.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

A = TypeVar("A")
T = TypeVar("T")

AT_ONCE = 32  # requests to an object store, each of which waits for an answer

# Stores whose clients are known, and tested, to create exclusively; any other has to show it.
_EXCLUSIVE = frozenset({"file", "local", "memory", "gs", "gcs"})

_memory_create = threading.Lock()  # fsspec's memory file system looks first, and then writes


class TooLarge(ValueError):
    """A file is larger than its reader is willing to take in."""


class Store:
    """The files under one URL, named by relative ``/``-separated paths.

    Args:
        url: any fsspec URL or a local path: ``gs://bucket/runs/7``, ``memory://x``, ``/tmp/x``.
        fs: the fsspec file system to use; by default the URL's.
        retry: how long to try again what a store refuses for a moment.

    Its methods raise FileNotFoundError, StoreUnavailable, or another OSError.
    """

    def __init__(self, url: str, fs: Any = None, retry: Backoff = PATIENT) -> None:
        if fs is None:
            fs, root = fsspec.core.url_to_fs(url)
        else:
            root = fs._strip_protocol(url)
        self.fs: Any = fs
        self.retry = retry
        self.root = str(root).rstrip("/")
        self.url = self.root if isinstance(fs, LocalFileSystem) else url.rstrip("/")
        self._local = isinstance(fs, LocalFileSystem)
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
        self._exclusive = not _EXCLUSIVE.isdisjoint(protocols)

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
        if self._local:
            with open(self.path(name), "rb", opener=_at_once) as file:
                data = file.read(-1 if limit is None else limit + 1) or b""
        else:
            data = self._retried(name, lambda: self._cat(name, limit))
        if limit is not None and len(data) > limit:
            raise TooLarge(f"{self.url}/{name} is larger than {limit} bytes")
        return data

    def read_part(self, name: str, start: int, stop: int) -> bytes:
        """Returns the bytes [start, stop) of ``name``, or those of them that there are.

        Raises FileNotFoundError.
        """
        if self._local:
            with open(self.path(name), "rb", opener=_at_once) as file:
                return os.pread(file.fileno(), stop - start, start)
        return self._retried(name, lambda: self._cat_part(name, start, stop))

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Writes ``name``, replacing what was there."""
        if self._local:
            try:
                with self._written_aside(name, data) as aside:
                    os.replace(aside, self.path(name))
            except OSError as error:
                if error.errno not in NO_ROOM or not spare.rewrite(Path(self.path(name)), data):
                    raise
        else:
            self._retried(name, lambda: self.fs.pipe_file(self.path(name), bytes(data)))

    def keep_spare(self, name: str, size: int = spare.BLOCK) -> None:
        """From now on ``name`` can be written when the disk is full, with so many bytes or less."""
        if self._local:
            spare.keep_spare(Path(self.path(name)), size)

    def create(self, name: str, data: bytes) -> bool:
        """Writes ``name`` only if it does not exist. Returns whether this call created it.

        After an error, and after False from a store whose client tries again by itself,
        the file may be this call's all the same: trainer.rundir.exclusive finds out. Raises OSError
        for a store that would replace what is there: two leaders could lead one run on it.
        """
        if not self._exclusive:
            self._prove_exclusive()
        try:
            if self._local:
                try:
                    with self._written_aside(name, data) as aside:
                        os.link(aside, self.path(name))
                except OSError as error:
                    if error.errno not in NO_ROOM or not spare.create(Path(self.path(name)), data):
                        raise
            else:
                with self._errors_of(name), self._one_creator():
                    # GCS: ifGenerationMatch=0. Others honour mode="create" in their own way.
                    self.fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def names(self, folder: str = "") -> list[str]:
        """The sorted names directly inside ``folder`` (files and folders); [] if there is none."""
        try:
            found = self._retried(
                folder, lambda: self.fs.ls(self.path(folder), detail=False, refresh=True)
            )
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found}
        return sorted(name for name in names if not name.startswith("."))

    def files(self, folder: str = "") -> list[str]:
        """The sorted names of all files in ``folder``, however deep, seen from there.

        Of what comes and goes while the list is made, anything may be in it.
        """
        path = self.path(folder)
        try:
            if self._local:
                walk = os.walk(path, onerror=_unless_gone)
                found = [os.path.join(at, name) for at, _, names in walk for name in names]
            else:
                found = self._retried(folder, lambda: self.fs.find(path))
        except FileNotFoundError:
            return []
        names = (str(entry)[len(path) + 1 :] for entry in found)
        return sorted(name for name in names if "/." not in f"/{name}")

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The bytes of all files in ``folder``, by name, as ``files`` gives them."""
        if self._local:
            local: dict[str, int] = {}
            for name in self.files(folder):
                with suppress(FileNotFoundError, NotADirectoryError):  # it has gone meanwhile
                    local[name] = os.stat(self.path(f"{folder}/{name}".lstrip("/"))).st_size
            return local
        path = self.path(folder)
        try:
            found = self._retried(folder, lambda: self.fs.find(path, detail=True))
        except FileNotFoundError:
            return {}
        sizes = {str(entry)[len(path) + 1 :]: int(about["size"]) for entry, about in found.items()}
        return {name: sizes[name] for name in sorted(sizes) if "/." not in f"/{name}"}

    def size(self, name: str) -> int:
        """How many bytes ``name`` holds. Raises FileNotFoundError."""
        self.fs.invalidate_cache()
        return int(self._retried(name, lambda: self.fs.info(self.path(name)))["size"])

    def exists(self, name: str) -> bool:
        """Whether the file or folder ``name`` exists."""
        self._retried(name, lambda: self.fs.invalidate_cache())
        return bool(self._retried(name, lambda: self.fs.exists(self.path(name))))

    def delete(self, name: str) -> None:
        """Removes the file or the whole folder ``name``; nothing happens if it is not there."""
        self._retried(name, lambda: self.fs.invalidate_cache())
        try:
            self._retried(name, lambda: self.fs.rm(self.path(name), recursive=True))
        except FileNotFoundError:
            return

    def delete_file(self, name: str) -> None:
        """Removes the file ``name``; nothing happens if it is not there."""
        with suppress(FileNotFoundError):
            self._retried(name, lambda: self.fs.rm_file(self.path(name)))

    def each(self, work: Callable[[A], T], of: Iterable[A]) -> list[T]:
        """Returns what ``work`` returns for each; on an object store several are asked at once.

        Raises what the first that fails has raised.
        """
        many = list(of)
        if self._local or len(many) < 2:
            return [work(one) for one in many]
        with ThreadPoolExecutor(min(AT_ONCE, len(many)), "swell-store") as pool:
            return list(pool.map(work, many))

    def _prove_exclusive(self) -> None:
        """Creates a file twice: the second attempt must be refused."""
        path = self.path(f".exclusive-{secrets.token_hex(8)}")
        with self._errors_of(""):
            self.fs.pipe_file(path, b"", mode="create")
            try:
                self.fs.pipe_file(path, b"", mode="create")
            except FileExistsError:
                self._exclusive = True
            finally:
                self.fs.rm_file(path)
        if not self._exclusive:
            raise OSError(
                f"{self.url}: this store replaces files that it should create exclusively; "
                "use gs://, a local path, or s3:// with a server that honours If-None-Match"
            )

    def _cat(self, name: str, limit: int | None) -> bytes:
        if limit is not None:
            return self._cat_part(name, 0, limit + 1)
        data: bytes = self.fs.cat_file(self.path(name))
        return data

    def _cat_part(self, name: str, start: int, stop: int) -> bytes:
        try:
            data: bytes = self.fs.cat_file(self.path(name), start=start, end=stop)
        except Exception as error:
            # Of an empty object no range can be had, and none beyond the end of one.
            if http_status(error) == 416:
                return b""
            raise
        return data

    def _retried(self, name: str, operation: Callable[[], T]) -> T:
        for wait in self.retry.waits():
            try:
                with self._errors_of(name):
                    return operation()
            except StoreUnavailable:
                time.sleep(wait)
        with self._errors_of(name):
            return operation()

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Makes an OSError of whatever exceptions an object store's client has of its own."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, NotADirectoryError):
            raise
        except Exception as error:
            said = f"{self.url}/{name}: {type(error).__name__}: {error}"
            if not self._local and is_transient(error):
                raise StoreUnavailable(said) from error
            if isinstance(error, OSError):
                raise
            raise OSError(said) from error

    @contextmanager
    def _one_creator(self) -> Iterator[None]:
        if isinstance(self.fs, MemoryFileSystem):
            with _memory_create:
                yield
        else:
            yield

    @contextmanager
    def _written_aside(self, name: str, data: bytes | memoryview) -> Iterator[str]:
        target = Path(self.path(name))
        make_private(target.parent)
        aside = target.parent / f".aside-{secrets.token_hex(8)}"
        try:
            with aside.open("xb", buffering=0) as file, _named(target):
                written = 0
                while written < len(data):
                    # No view outlives an error, in its traceback: its memory is to be closed.
                    with memoryview(data)[written:] as rest:
                        written += file.write(rest)
                os.fsync(file.fileno())
            yield str(aside)
        finally:
            aside.unlink(missing_ok=True)


def _at_once(path: str, flags: int) -> int:
    """Opens what may be a pipe, in a folder of who knows whom, without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _unless_gone(error: OSError) -> None:
    """A folder that cannot be listed is none without files."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Lets an error in the block say which file it is about: that of a write does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
