"""Which lines of a log somebody wants to see: by how bad they are, and by what they say. Pure.

A log has a severity for each line, but only that of the stream: INFO of what went to stdout, ERROR
of all that went to stderr, where Python's ``logging`` writes by default. So a line that begins with
a level of its own (``WARNING:root: …``, ``2026-01-01 12:00:00 INFO …``, ``{"severity": "ERROR"}``)
is taken at its word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.logs.logline import Line, plain
from trainer.rundir.usererror import Unusable

# As Cloud Logging has them, from what is no news to what is worst.
LEVELS = (
    "DEFAULT",
    "DEBUG",
    "INFO",
    "NOTICE",
    "WARNING",
    "ERROR",
    "CRITICAL",
    "ALERT",
    "EMERGENCY",
)
_ALSO = {"WARN": "WARNING", "FATAL": "CRITICAL"}
_NAMES = "|".join([*LEVELS, *_ALSO])
_BEGINS = re.compile(rf"[^A-Za-z]*(?:T[\d:.,]+Z?[^A-Za-z]*)?({_NAMES})\b")
_STRUCTURED = re.compile(rf'\{{.*?"(?:severity|level|levelname)":\s*"({_NAMES})"', re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """What is wanted of a log; without arguments, all of it.

    Attributes:
        level: of LEVELS, the least bad that is.
        pattern: what a line's text has to have somewhere.
    """

    level: str = LEVELS[0]
    pattern: re.Pattern[str] | None = None

    @classmethod
    def of(cls, level: str | None, grep: str | None) -> Selection:
        """That which the options of a command ask for. Raises Unusable for what is none."""
        return cls(LEVELS[0] if level is None else _level(level), _pattern(grep))

    def takes(self, line: Line) -> bool:
        """Whether a line is wanted."""
        if LEVELS.index(level_of(line)) < LEVELS.index(self.level):
            return False
        return self.pattern is None or self.pattern.search(plain(line.message)) is not None


ALL = Selection()


def level_of(line: Line) -> str:
    """How bad a line is: as it says, else as the log has it."""
    own = _BEGINS.match(line.message) or _STRUCTURED.match(line.message)
    name = (own[1] if own else line.severity).upper()
    name = _ALSO.get(name, name)
    return name if name in LEVELS else LEVELS[0]


def _level(text: str) -> str:
    name = _ALSO.get(text.upper(), text.upper())
    if name not in LEVELS:
        known = ", ".join(level.lower() for level in LEVELS[1:])
        raise Unusable("SW6260", f"--level {text}: is no level; there are {known}")
    return name


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unusable(
            "SW6261",
            f"--grep {text}: is no regular expression: {error}; put a backslash before a "
            r"character that stands for itself, such as \( or \[",
        ) from None
