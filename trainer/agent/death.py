"""How a worker's process has ended, and whose fault that may be."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from trainer.protocol.ends import EXIT_AGAIN, name_of_signal

Kind = Literal["", "machine", "unsure", "crash", "killed", "again"]

OUT_OF_MEMORY = "the machine was out of memory"
# Where the kernel counts whom it has killed for want of memory: this control group, the machine.
_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


class MemoryKills:
    """Counts the processes that the kernel has killed for want of memory.

    Args:
        files: that have lines of ``oom_kill`` and a number.
    """

    def __init__(self, files: Iterable[Path] = _COUNTERS) -> None:
        self._files = tuple(files)
        self._seen = self._count()

    def rose(self) -> bool:
        """Whether there are more than when this was asked last."""
        before, self._seen = self._seen, self._count()
        return any(now > then for now, then in zip(self._seen, before, strict=True))

    def _count(self) -> list[int]:
        return [_oom_kills(path) for path in self._files]


def _oom_kills(path: Path) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0


def kind_of(code: int, *, expected: bool, out_of_memory: bool) -> Kind:
    """Whose fault the end of a worker's process may be (see ``trainer.coordinator.blame``).

    Args:
        code: its exit code, that of a signal below 0.
        expected: whether it was ordered to end, or killed, by this agent, or has said why it ends.
        out_of_memory: whether the kernel has killed processes for want of memory meanwhile.
    """
    if expected:
        return ""
    if code == EXIT_AGAIN:
        return "again"
    if code == -signal.SIGKILL:
        return "unsure" if out_of_memory else "killed"  # somebody's order, as a rule
    return "machine" if code == -signal.SIGBUS else "crash"


def describe(code: int, *, told: bool = True, out_of_memory: bool = False) -> str:
    """What an exit code says, for an event's reason.

    Args:
        code: it.
        told: whether it is known why the process ended.
        out_of_memory: as above.
    """
    if code < 0:
        why = f": {OUT_OF_MEMORY}" if out_of_memory and code == -signal.SIGKILL else ""
        return f"a worker was killed by {name_of_signal(-code)}{why}"
    why = "" if told else ", without an error: by os._exit(), or in native code"
    return f"a worker exited with code {code}{why}"
