"""Bytes on their way into the emulated Cloud Storage, with the checksums its API tells."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import google_crc32c


@dataclass(frozen=True)
class Content:
    """Bytes that were received, in a file of the blobs' folder that nothing refers to yet.

    Those that were put together from parts have no ``md5``.
    """

    blob: str
    size: int
    crc32c: str
    md5: str | None


class Receiver:
    """Writes one blob, piece by piece.

    Args:
        path: the file to make.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")
        self._crc32c = google_crc32c.Checksum()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Takes in more bytes."""
        self._file.write(data)
        self._crc32c.update(data)
        self._md5.update(data)
        self.size += len(data)

    def content(self) -> Content:
        """Ends the blob and returns what it holds."""
        self._file.close()
        return Content(
            self._path.name,
            self.size,
            base64.b64encode(self._crc32c.digest()).decode(),
            base64.b64encode(self._md5.digest()).decode(),
        )

    def drop(self) -> None:
        """Throws away what was received."""
        self._file.close()
        self._path.unlink(missing_ok=True)
