"""A tracker in a process of its own: its library is large, and may hang, or end its process.

The two speak JSON lines: first what is tracked, and then points; each is answered by ``true``, or
by what went wrong. The other end is trainer.telemetry.__main__.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
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

    def __str__(self) -> str:
        return NAMES[self._kind]

    def tell(self, points: Sequence[Point]) -> None:
        """Tells points, in order. Raises OSError; the next time it is another process."""
        if not points:
            return
        try:
            if self._process is None:
                self._process = self._start()
                self._ask(self._begin)
            for first in range(0, len(points), AT_ONCE):
                self._ask([asdict(one) for one in points[first : first + AT_ONCE]])
        except OSError:
            self._kill()
            raise

    def close(self) -> None:
        """Nothing more is told. Its process ends by itself, once all is sent."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.telemetry"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a notice is not for it
        )

    def _ask(self, what: Any) -> None:
        assert self._process is not None and self._process.stdin and self._process.stdout
        self._process.stdin.write(dumped(what).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], ANSWER)[0]:
            raise OSError(f"it has not answered for {ANSWER:.0f} s")
        answer = self._process.stdout.readline()
        if not answer:
            raise OSError("its process has ended")
        if (said := json.loads(answer)) is not True:
            raise OSError(str(said))

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what its library has started
        process.communicate()
