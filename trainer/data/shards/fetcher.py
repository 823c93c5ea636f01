"""Has shards fetched ahead, by a process of its own: no step waits for the download of a shard.

The process ends with the one that has started it. When it is lost nothing else is: whoever needs a
shard fetches it.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.data.shards.failure import log
from trainer.data.shards.reader import Reader

ROOT = Path(__file__).parents[3]
LENGTH = struct.Struct("=Q")
GRACE = 5.0  # seconds for it to end
TRIES = 3  # processes that may be lost


class Fetcher:
    """Fetches shards into the cache that a reader has.

    Args:
        reader: what it fetches with; the process has one like it.

    Attributes:
        process: what fetches; None before it is needed, and when it was lost too often.
    """

    def __init__(self, reader: Reader) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._reader = reader
        self._begun = 0
        self._told = b""

    def want(self, shards: Sequence[int], room: int) -> None:
        """From now on these are wanted, the first of them first.

        Args:
            shards: their numbers.
            room: bytes that they may have in the cache together.
        """
        told = json.dumps({"want": list(shards), "room": room}).encode() + b"\n"
        if told == self._told and self.process is not None and self.process.poll() is None:
            return
        self._told = told
        if self._there() and not self._tell(told) and self._there():
            self._tell(told)

    def close(self) -> None:
        """Ends the process."""
        process, self.process, self._begun = self.process, None, TRIES
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _there(self) -> bool:
        """Whether the process is there; starts it, if it may be started."""
        process = self.process
        if process is not None:
            if (code := process.poll()) is None:
                return True
            self.process = None
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
            again = self._begun < TRIES
            log.warning(
                "the process that fetches shards ahead has ended with exit code %s%s",
                code,
                ", and another takes its place" if again else "; they are fetched when needed",
            )
        if self._begun >= TRIES:
            return False
        self._begun += 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer.data.shards.fetching"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        about = pickle.dumps(self._reader)
        self._tell(LENGTH.pack(len(about)) + about)
        return True

    def _tell(self, data: bytes) -> bool:
        """Whether the process was told something."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError:
            return False
        return True
