"""A tracker in a process of its own: its library is large, and may hang, or end its process.

The two speak JSON lines: first what is tracked, and then points. Each line is answered by how many
of its points are taken, as they are, and then by ``true``, or by what went wrong. The other end is
trainer.telemetry.__main__.

So what a tracker has taken before something went wrong, it is not told again. Only of what it was
busy with when its process was lost nobody knows: that is told again, rather than not at all.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from trainer.rundir.numbers import dumped
from trainer.telemetry.curves import Point

ANSWER = 60.0  # seconds for one answer; the first one imports a large library
AT_ONCE = 1000  # points in one line
CLOSE = 1.0  # seconds that its end is waited for; it may need longer to send the rest
NAMES = {"wandb": "Weights & Biases", "mlflow": "MLflow", "traces": "OpenTelemetry"}


class Apart:
    """Tells a tracker, whose process is started when there is something to tell.

    Args:
        kind: wandb, mlflow or traces.
        where: its project, or its URL.
        run_id: the run's.
        name: its job's.
    """

    def __init__(self, kind: str, where: str, run_id: str, name: str) -> None:
        self._kind = kind
        self._begin = {"kind": kind, "where": where, "run": run_id, "name": name}
        self._process: subprocess.Popen[bytes] | None = None
        self._untold: list[Point] = []
        self._heard = b""  # of an answer

    def __str__(self) -> str:
        return NAMES[self._kind]

    def tell(self, points: Sequence[Point]) -> None:
        """Tells points, in order, after those that it has not taken before.

        Raises OSError; what it has not taken then, it is told the next time, by another process.
        """
        self._untold += points
        if not self._untold:
            return
        try:
            if self._process is None:
                self._process = self._start()
                for _ in self._ask(self._begin):
                    pass
            while self._untold:
                self._tell_some()
        except OSError:
            self._kill()
            raise

    def close(self) -> None:
        """Nothing more is told. Its process ends by itself, once all is sent."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE)
        process.stdout.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.telemetry"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a notice is not for it
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._heard = b""
        return process

    def _tell_some(self) -> None:
        some, taken = self._untold[:AT_ONCE], 0
        try:
            for so_far in self._ask([asdict(one) for one in some]):
                taken = min(max(taken, so_far), len(some))
            taken = len(some)
        finally:
            del self._untold[:taken]

    def _ask(self, what: Any) -> Iterator[int]:
        """Yields how much it has taken of this, again and again, until it has all of it."""
        assert self._process is not None and self._process.stdin is not None
        rest, pipe = dumped(what).encode() + b"\n", self._process.stdin.fileno()
        while rest:
            _wait_for(pipe, select.POLLOUT)
            rest = rest[os.write(pipe, rest) :]
        while (said := self._answer()) is not True:
            if not isinstance(said, int):
                raise OSError(str(said))
            yield said

    def _answer(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            _wait_for(pipe, select.POLLIN)
            if not (data := os.read(pipe, 2**16)):
                raise OSError("its process has ended")
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            return f"it answers {line[:80]!r}"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what its library has started
        process.communicate()


def _wait_for(pipe: int, what: int) -> None:
    """Waits until a pipe can be read, or written. Not by select(2): see its limit of 1024 files."""
    poll = select.poll()
    poll.register(pipe, what)
    if not poll.poll(1000 * ANSWER):
        raise OSError(f"it has not answered for {ANSWER:.0f} s")
