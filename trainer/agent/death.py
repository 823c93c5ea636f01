"""How a worker's process has ended, and whose fault that may be."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from trainer.protocol.ends import EXIT_AGAIN, name_of_signal
from trainer.rundir.usererror import Message
from trainer.worker.script import ENDED_ITSELF

Kind = Literal["", "machine", "unsure", "crash", "killed", "again"]

NEVER_READY = "SW5027"  # the message about workers that die before they are ready
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
    if told:
        return f"a worker exited with code {code}"
    how = f"without an error: as os._exit({code}) does, or native code"
    return f"a worker ended itself with exit code {code}, {how}"


def never_ready(deaths: int, code: int, reason: str) -> str:
    """Why a replica gives up: what to say of workers that end before their program is loaded.

    Args:
        deaths: how many, one after another.
        code: the last one's exit code.
        reason: the same in words, as above.
    """
    if code >= 0:
        what = f"the program ended its own process before it trained, {deaths} times in a row"
    else:
        what = f"{deaths} workers in a row died before they were ready"
    said = f"{what}: {reason}; what it had printed is above in its log (swell logs)"
    return str(Message(ENDED_ITSELF if code >= 0 else NEVER_READY, said))
