"""Keys that are pressed while something is shown on a terminal.

Nothing waits for a key alone: ``wait`` is a sleep from which a key wakes.
"""

from __future__ import annotations

import os
import select
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

Wait = Callable[[float], str | None]

# What terminals send for keys that are no characters, and for those that mean the same.
_NAMES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\x1b[5~": "page up",
    b"b": "page up",
    b"\x1b[6~": "page down",
    b" ": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"g": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b"G": "end",
}


def name_of(sent: bytes) -> str:
    """Returns the name of a key: a character, or up, down, page up, page down, home, end."""
    return _NAMES.get(sent) or sent.decode("utf-8", "replace")


@contextmanager
def keys_of(stdin: IO[str]) -> Iterator[Wait | None]:
    """Yields what waits some seconds for a key, and returns None when none was pressed.

    Yields None where nobody can press one: in a pipe, or when this process is in the background.
    The terminal is as it was afterwards.

    Args:
        stdin: where keys come from.
    """
    try:
        number = stdin.fileno()
        if not os.isatty(number) or os.tcgetpgrp(number) != os.getpgrp():
            yield None
            return
        before = termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):
        yield None
        return
    tty.setcbreak(number, termios.TCSANOW)
    try:
        yield _Keys(number).wait
    finally:
        termios.tcsetattr(number, termios.TCSANOW, before)


class _Keys:
    def __init__(self, number: int) -> None:
        self._number = number
        self._hung_up = False

    def wait(self, seconds: float) -> str | None:
        """See ``keys_of``."""
        if self._hung_up:
            time.sleep(seconds)
            return None
        if not select.select([self._number], [], [], seconds)[0]:
            return None
        sent = os.read(self._number, 1)
        if sent == b"\x1b":  # the rest of it is there already
            while len(sent) < 8 and select.select([self._number], [], [], 0.01)[0]:
                sent += os.read(self._number, 1)
                if sent in _NAMES:
                    break
        self._hung_up = not sent
        return name_of(sent) if sent else None
