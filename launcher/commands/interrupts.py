"""Ctrl-C acts at once, whatever a command waits for.

Python runs a signal's handler between two of its own instructions: not while a name is looked up,
nor while the threads of a client are waited for at the end. A thread that hears of the signal from
the kernel ends the process then.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from launcher.run_states import CANCELLED

GRACE = 2.0  # seconds in which the command may end by itself, and say what it leaves


class Interrupts:
    """Ends the process some seconds after Ctrl-C or SIGTERM, unless it has ended by then.

    Attributes:
        armed: whether that is so; not while a command does with Ctrl-C something else.
    """

    def __init__(self, grace: float) -> None:
        self.armed = True
        self._grace = grace
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="swell-interrupts", daemon=True).start()

    def _listen(self) -> None:
        while numbers := self._woken.recv(64):
            if self.armed and {signal.SIGINT, signal.SIGTERM}.intersection(numbers):
                time.sleep(self._grace)
                with suppress(OSError):
                    os.write(2, b"swell: stopped while it waited for an answer\n")
                os._exit(CANCELLED)


_interrupts: Interrupts | None = None


def watch_interrupts() -> None:
    """From now on Ctrl-C ends this process, if it comes to nothing else."""
    global _interrupts
    if _interrupts is None and threading.current_thread() is threading.main_thread():
        _interrupts = Interrupts(GRACE)


def leave(code: int) -> NoReturn:
    """Ends the process at once, with this exit code.

    ``sys.exit()`` waits for the threads of clients, and those for what has not answered. And
    whatever code it is given, Python ends by SIGINT if that came while it was executing a text, as
    it does to make a dataclass.
    """
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@contextmanager
def handled_here() -> Iterator[None]:
    """In the block Ctrl-C is the command's own matter, which never waits for anything else."""
    if _interrupts is None:
        yield
        return
    _interrupts.armed = False
    try:
        yield
    finally:
        _interrupts.armed = True
