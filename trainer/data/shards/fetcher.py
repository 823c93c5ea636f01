"""Has shards fetched ahead, by a process of its own: no step waits for the download of a shard.

The process ends with the one that has started it. When it is lost nothing else is: whoever needs a
shard fetches it. Until it is ready, threads of this one fetch: that is when most is waited for.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.data.shards.failure import log
from trainer.data.shards.fetching import LENGTH, Fetching
from trainer.data.shards.reader import Reader

ROOT = Path(__file__).parents[3]
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
        self._meanwhile: Fetching | None = None

    def want(self, shards: Sequence[int], room: int) -> None:
        """From now on these are wanted, the first of them first.

        Args:
            shards: their numbers.
            room: bytes that they may have in the cache together.
        """
        self._fetch_meanwhile(shards, room)
        told = json.dumps({"want": list(shards), "room": room}).encode() + b"\n"
        if told == self._told and self.process is not None and self.process.poll() is None:
            return
        self._told = told
        if self._there() and not self._tell(told) and self._there():
            self._tell(told)

    def close(self) -> None:
        """Ends the process."""
        process, self.process, self._begun = self.process, None, TRIES
        if self._meanwhile is not None:
            self._meanwhile.close()
        if process is None:
            return
        if not _is_over(process):
            process.kill()  # it imports, and has fetched nothing
        _let_go(process)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _fetch_meanwhile(self, shards: Sequence[int], room: int) -> None:
        """Fetches here until the first process can."""
        if self._begun == 0:
            self._meanwhile = Fetching(self._reader)
            self._meanwhile.start()
        if self._meanwhile is not None:
            if self.process is not None and _is_over(self.process):
                self._meanwhile.close()
                self._meanwhile = None
            else:
                self._meanwhile.want(shards, room)

    def _there(self) -> bool:
        """Whether the process is there; starts it, if it may be started."""
        process = self.process
        if process is not None:
            if (code := process.poll()) is None:
                return True
            self.process = None
            _let_go(process)
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
            stdout=subprocess.PIPE,
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


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Closes what leads to a process, which ends by that."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):
            pipe.close()


def _is_over(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has closed its standard output: it is ready, or has ended."""
    assert process.stdout is not None
    return bool(select.select([process.stdout.fileno()], [], [], 0)[0])
