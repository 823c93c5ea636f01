"""The process that fetches shards ahead: `python -m trainer.data.shards.fetching`.

It reads from its parent, on its standard input, what to fetch with, and then lines of what is
wanted; the newest one counts. It fetches what comes first of it, several at a time, and holds what
is wanted and there, so that nobody removes that to make room. It stops where its part of the cache
is full. What cannot be fetched is left to those who need it: they can say what for. It takes a
second or more to begin, and says when it has.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO

from trainer.data.shards.reader import Reader

LENGTH = struct.Struct("=Q")
AT_ONCE = 8  # shards
AGAIN = 5.0  # seconds until a shard is tried once more


class Fetching:
    """What is wanted, and what of it is there.

    Args:
        reader: fetches it.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._change = threading.Condition()
        self._wanted: list[int] = []
        self._held: dict[int, int] = {}  # descriptors of what is there
        self._busy: set[int] = set()
        self._not_before: dict[int, float] = {}  # monotonic seconds
        self._closed = False

    def start(self) -> None:
        """Begins, in threads."""
        for _ in range(AT_ONCE):
            threading.Thread(target=self._serve, daemon=True, name="fetches shards").start()

    def close(self) -> None:
        """Ends, when what is being fetched is there."""
        self._closed = True
        self.want([], 0)

    def want(self, shards: Sequence[int], room: int) -> None:
        """This is wanted, as far as there is room for it in so many bytes."""
        fitting = []
        for number in shards:
            room -= self._reader.index.shards[number].size
            if room < 0:
                break
            fitting.append(number)
        with self._change:
            self._wanted = fitting
            for number in self._held.keys() - set(fitting):
                os.close(self._held.pop(number))
            self._change.notify_all()

    def _serve(self) -> None:
        while True:
            with self._change:
                while (number := self._next()) is None:
                    if self._closed:
                        return
                    self._change.wait(self._until_again())
                self._busy.add(number)
            fd = self._fetched(number)
            with self._change:
                self._busy.discard(number)
                if fd is None:
                    self._not_before[number] = time.monotonic() + AGAIN
                    self._change.notify_all()  # whoever waits, waits for this one, too
                elif number in self._wanted:
                    self._held[number] = fd
                else:
                    os.close(fd)

    def _next(self) -> int | None:
        now = time.monotonic()
        for number in self._wanted:
            if number in self._held or number in self._busy:
                continue
            if self._not_before.get(number, now) <= now:
                return number
        return None

    def _until_again(self) -> float | None:
        """Seconds until what failed may be tried once more; None where nothing has."""
        times = [
            self._not_before[one]
            for one in self._wanted
            if one in self._not_before and one not in self._held and one not in self._busy
        ]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def _fetched(self, number: int) -> int | None:
        """Fetches a shard, and holds it; None if that cannot be now."""
        try:
            fd = self._reader.fetch(number)
        except Exception:  # who needs it meets it, too, and says what for
            return None
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH)
        if not os.fstat(fd).st_nlink:  # removed before it was held
            os.close(fd)
            return None
        return fd


def main(line: BinaryIO, say_ready: Callable[[], object]) -> None:
    """Serves until the parent is gone, or does not want anything any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is to end ends the one that trains
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    head = line.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return
    reader = pickle.loads(line.read(*LENGTH.unpack(head)))
    reader.source.load_client()
    say_ready()
    fetching = Fetching(reader)
    fetching.start()
    for told in line:
        if told.endswith(b"\n"):
            wanted = json.loads(told)
            fetching.want(wanted["want"], wanted["room"])


def _say_ready() -> None:
    """Lets the parent see the end of the standard output, whose number nothing else gets."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


if __name__ == "__main__":
    main(sys.stdin.buffer, _say_ready)
    os._exit(0)  # whatever is being fetched is of no use any more
