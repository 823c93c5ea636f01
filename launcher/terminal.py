"""What a terminal gets to see: all that the command prints goes through here.

A terminal obeys control characters: it moves the cursor, sets its title, hides text, and some send
back what they were told to. Texts from outside (a run directory, an API, a log, a library's error)
may have them, so both streams of the process show them instead. Codes of Swell's own, for colours
and the live view, are written by what draws them (launcher.views.output), which sends the text
between them through ``visible``, too.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import IO

# Control characters but tab and newline; line and paragraph separators; what turns text around;
# halves of surrogate pairs, which cannot be printed at all.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Returns ``text`` with its control characters as JSON writes them: ``\\u001b``.

    So JSON stays JSON, in which one of them may be by itself.
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class GuardedStream(io.TextIOWrapper):
    """Standard output or error whose reader is a person.

    Attributes:
        unguarded: the same stream for what has done this itself.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.unguarded = stream
        super().__init__(
            stream.buffer,
            stream.encoding,
            stream.errors,
            line_buffering=bool(stream.line_buffering),
            write_through=True,
        )

    def write(self, text: str) -> int:
        """Writes ``text``, visibly."""
        super().write(visible(text))
        return len(text)


def reopen_closed() -> list[str]:
    """Puts something in the place of standard streams that this process was started without.

    Else the next file or socket that is opened gets such a number, and whoever prints, here or in a
    process that is started, writes into that. Returns the names of those that are lost for output.
    """
    lost = []
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:  # cannot be, as those below it are open
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            stream = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, stream)
            lost += [name] if number else []
    return lost


def guard() -> None:
    """Guards this process's standard output and error from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, GuardedStream):
            stream.reconfigure(write_through=True)  # the two share what is below
            setattr(sys, name, GuardedStream(stream))


def unguarded(stream: IO[str]) -> IO[str]:
    """Returns the stream to write codes of one's own to."""
    return stream.unguarded if isinstance(stream, GuardedStream) else stream
