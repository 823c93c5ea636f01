"""A bundle: a folder of code as one file, known by the hash of what is in it.

The hash is not that of the file, which would depend on the compressor that made it, but that of a
listing with one line for each file, sorted by name: its name, whether it is a program, its size
and its SHA-256. The same content has the same hash on every machine. The file itself is a tar.gz.

What is read is not trusted: nothing is written before the whole listing has the expected hash, and
of a tar only plain files count, under names that stay inside the folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 20_000
MAX_NAME = 1024  # bytes of one name in UTF-8
MAX_BYTES = 2**30  # of all files together
_PER_FILE = 8 * 1024  # more than the headers and the padding of one file in a tar take


class BundleError(ValueError):
    """A bundle that is not what it should be; one line."""


@dataclass(frozen=True)
class File:
    """One file of a bundle.

    Attributes:
        name: its path inside the folder, with ``/``.
        data: its content.
        program: whether it may be executed.
    """

    name: str
    data: bytes
    program: bool = False


def digest(files: Iterable[File]) -> str:
    """Returns the hash of a bundle: hexadecimal SHA-256 of its listing."""
    listing = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name.encode("utf-8", "surrogateescape")):
        line = [file.name, file.program, len(file.data), hashlib.sha256(file.data).hexdigest()]
        listing.update(json.dumps(line).encode() + b"\n")
    return listing.hexdigest()


def encode(files: Iterable[File], folder: str = "") -> bytes:
    """Returns the bundle as one file.

    Args:
        files: what is in it.
        folder: put them all into a folder of this name.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in sorted(files, key=lambda file: file.name):
            entry = tarfile.TarInfo(f"{folder}/{file.name}" if folder else file.name)
            entry.size = len(file.data)
            entry.mode = 0o755 if file.program else 0o644
            tar.addfile(entry, io.BytesIO(file.data))
    return packed.getvalue()


def decode(data: bytes, *, sha256: str, size: int) -> list[File]:
    """Returns the files of a bundle, which are what ``sha256`` says.

    Args:
        data: the bundle as one file.
        sha256: its hash.
        size: how many bytes its files have together.

    Raises BundleError.
    """
    if not 0 <= size <= MAX_BYTES:
        raise BundleError(f"the code has {size} bytes; at most {MAX_BYTES} are taken in")
    files: dict[str, File] = {}
    left = size
    try:
        with tarfile.open(fileobj=io.BytesIO(_unzipped(data, size)), mode="r:") as tar:
            for entry in tar:
                if len(files) >= MAX_FILES:
                    raise BundleError(f"the code has more than {MAX_FILES} files")
                if not entry.isreg() or not is_plain(entry.name) or entry.name in files:
                    raise BundleError(f"the code has {entry.name[:80]!r}, which is no plain file")
                left -= entry.size
                content = tar.extractfile(entry)
                if left < 0 or content is None:
                    raise BundleError(f"the code is larger than {size} bytes")
                files[entry.name] = File(entry.name, content.read(), bool(entry.mode & 0o100))
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeError) as error:
        raise BundleError(f"the code cannot be unpacked: {error}") from None
    found = digest(files.values())
    if found != sha256:
        raise BundleError(f"the code has the hash {found}; what was launched has {sha256}")
    return list(files.values())


def _unzipped(data: bytes, size: int) -> bytes:
    """Returns what is zipped in ``data``, if that can be a tar of ``size`` bytes of files."""
    limit = size + MAX_FILES * _PER_FILE
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as zipped:
        plain = zipped.read(limit + 1)
    if len(plain) > limit:
        raise BundleError(f"the code is larger than {size} bytes")
    return plain


def is_plain(name: str) -> bool:
    """Whether ``name`` is a path that stays inside the folder it is put into."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    parts = name.split("/")
    return (
        length <= MAX_NAME
        and "\0" not in name
        and "\\" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )


def unpack(files: Sequence[File], folder: Path) -> None:
    """Writes ``files`` into ``folder``, which appears whole or not at all.

    Raises OSError when they cannot be written; fine when the folder is there already.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        aside.mkdir(mode=0o700)
        for file in files:
            path = aside / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                out.write(file.data)
            path.chmod(0o755 if file.program else 0o644)
        try:
            os.rename(aside, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
