"""What a launch prints to: whoever prints never waits for a reader, and never learns of its end.

A run goes on whether or not somebody reads: a pipe may be closed (``| head``), full because nobody
reads it, or a terminal that is gone; a file may be on a disk that is full. A thread writes what was
printed, for as long as somebody takes it.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

MOST = 2**20  # bytes that wait for a reader; what is printed meanwhile is left out


class Outlet(io.TextIOBase):
    """A text stream that takes everything at once.

    Args:
        stream: where it is to come out; None for nowhere, as when standard output is closed.
        gone: called once, from a thread, with the reason when nobody takes it any more.
        most: bytes that wait at the most.
    """

    def __init__(
        self,
        stream: TextIO | None,
        gone: Callable[[OSError], object] = lambda error: None,
        most: int = MOST,
    ) -> None:
        self._stream = stream
        self._gone = gone
        self._most = most
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._writes = False  # whether some of it is on its way
        self._dead = stream is None
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()  # what was printed to it before comes first
        self._descriptor = _descriptor_of(stream)
        self._start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it comes out on a terminal."""
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The stream's."""
        if self._descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return self._descriptor

    def writable(self) -> bool:
        """It always is."""
        return True

    def write(self, text: str) -> int:
        """Takes ``text``; it comes out as soon as it can, if somebody reads."""
        with self._changed:
            if not self._dead and len(self._waiting) < self._most:
                self._waiting += text.encode(self.encoding, "replace")
                self._changed.notify_all()
        return len(text)

    def drain(self) -> None:
        """Waits until everything has come out, or nobody takes it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._dead or not (self._waiting or self._writes))

    def redirect(self, stream: TextIO) -> None:
        """From now on it comes out elsewhere; what still waits is left out."""
        with self._changed:
            self._stream, self._descriptor = stream, _descriptor_of(stream)
            self._waiting.clear()
            self._dead = self._writes = False
            self._changed.notify_all()
        self._start()  # the thread of before may wait without end

    def _start(self) -> None:
        to = (self._stream, self._descriptor)
        threading.Thread(target=self._write_all, args=to, name="swell-output", daemon=True).start()

    def _write_all(self, stream: TextIO | None, descriptor: int | None) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stream is not stream)
                if self._dead or self._stream is not stream:
                    return
                data, self._waiting = bytes(self._waiting), bytearray()
                self._writes = True
            try:
                _put(stream, descriptor, data)
            except (OSError, ValueError) as error:
                with self._changed:
                    if self._stream is stream:
                        self._dead = True
                        self._changed.notify_all()
                        self._gone(error if isinstance(error, OSError) else OSError(str(error)))
                return
            with self._changed:
                if self._stream is not stream:
                    return
                self._writes = False
                self._changed.notify_all()


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _put(stream: TextIO | None, descriptor: int | None, data: bytes) -> None:
    if descriptor is None:
        assert stream is not None
        stream.write(data.decode(stream.encoding or "utf-8"))
        stream.flush()
        return
    # Not through the stream: what it could not write it would try again when the program ends.
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody who shares the pipe has made it so
            select.select([], [descriptor], [])
