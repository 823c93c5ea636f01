"""Stacks: what a worker's threads do, asked for by its agent, whatever they do.

The worker has Python's ``faulthandler`` answer a signal: it runs in C, in the signal's handler,
needs no lock, and so answers from a deadlock, an endless loop and a call that holds the GIL alike.
py-spy would show native frames too, but must be allowed to trace its peers, which containers seldom
are. The answer goes into a file in memory that the worker keeps open; its agent, being the same
user, opens that through /proc. A stack is files, lines and names of functions, and no values.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

# Those of real time have no meaning of their own, and programs seldom give the higher ones one.
SIGNAL = signal.SIGRTMIN + 11
FRAMES, THREADS = 100, 100  # faulthandler itself writes no more of either
WIDTH = 500  # characters of a name, as there
_THREAD = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+\b.*:")
_FRAME = re.compile(rf'  File "([^"\n]{{1,{WIDTH}}})", line (\d{{1,9}}) in (\S{{1,{WIDTH}}})')

_offered: tuple[int, int] | None = None  # the process that has offered, and the file


@dataclass(frozen=True)
class Frame:
    """One call.

    Attributes:
        file: its path.
        line: the one that is being executed, from 1.
        function: its name.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f'  File "{self.file}", line {self.line} in {self.function}'


Thread = tuple[Frame, ...]  # the innermost call comes first


def name_of(pid: int) -> str:
    """The name of the file that process ``pid`` offers; what is inherited has another's."""
    return f"swell-stacks-{pid}"


def offer() -> None:
    """From now on this process answers SIGNAL with the stacks of its threads.

    Children that it forks have to offer theirs themselves.
    """
    global _offered
    before, pid = _offered, os.getpid()
    if before is not None and before[0] == pid:
        return
    try:
        file = os.memfd_create(name_of(pid))
    except OSError:  # there are none left, or somebody forbids it: then there are no stacks
        return
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_APPEND)  # its reader empties it
    faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)
    _offered = pid, file
    if before is not None:
        os.close(before[1])


@lru_cache(maxsize=64)  # ranks that wait for one another have the same
def parse(text: str) -> tuple[Thread, ...]:
    """The threads in what ``faulthandler``, or ``render``, has written; all else is left out.

    faulthandler begins with the newest; a process's first thread is the last.
    """
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if _THREAD.fullmatch(line):
            threads.append([])
        elif (found := _FRAME.fullmatch(line)) and threads and len(threads[-1]) < FRAMES:
            file, number, function = found.groups()
            threads[-1].append(Frame(file, int(number), function))
    return tuple(tuple(one) for one in threads[:THREADS] if one)


def render(threads: Iterable[Thread]) -> str:
    """The threads as text, alike in all processes that do the same."""
    parts = []
    for number, frames in enumerate(threads):
        head = f"Thread 0x{number:x} (most recent call first):"
        parts.append("\n".join([head, *map(str, frames)]))
    return "\n\n".join(parts)
