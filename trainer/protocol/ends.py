"""How a process ends: what its exit code says, to whoever started it and in words.

An exit code is that of ``subprocess``: below 0 for a process that a signal has ended. Any number
may come: a program chooses the code that it exits with, and whoever kills it the signal.
"""

from __future__ import annotations

import signal

# Of a worker: another process must take its place, and it is not to blame. EX_TEMPFAIL, sysexits.h.
EXIT_AGAIN = 75


def name_of_signal(number: int) -> str:
    """The name of a signal, such as SIGSEGV or SIGRTMIN+3; of what is none, its number.

    Of the real-time signals Python names the first and the last one alone.
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        above = number - signal.SIGRTMIN
        return f"SIGRTMIN+{above}" if above > 0 else f"signal {number}"


def end_of(code: int) -> str:
    """How a process has ended, to follow a colon: ``exit code 3``, ``killed by SIGSEGV``.

    Args:
        code: its exit code.
    """
    return f"killed by {name_of_signal(-code)}" if code < 0 else f"exit code {code}"
