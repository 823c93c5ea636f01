"""One line that a replica printed, wherever it was read, and how it is shown."""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from datetime import datetime, timezone

from launcher.terminal import visible
from launcher.words import at_clock

SECOND = 10**9  # nanoseconds

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])?")


@dataclass(frozen=True)
class Line:
    """One log entry.

    Attributes:
        time: nanoseconds since 1970, as the log has them.
        replica: ``workerpool1-0``, or ``service`` for what Vertex AI itself says.
        severity: INFO, ERROR, …
        message: the text, which may have several lines.
        key: what no other entry of the same time has.
    """

    time: int
    replica: str
    severity: str
    message: str
    key: str = ""


def parse_time(text: str) -> int:
    """Returns nanoseconds since 1970 of an RFC 3339 time. Raises ValueError.

    Cloud Logging gives up to nine decimals, and none for a whole second, so that neither text
    nor datetime would compare rightly.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time such as 2026-01-01T12:00:00Z")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    datetime(year, month, day, hour, minute, min(second, 59))  # ValueError for what is no date
    seconds = timegm((year, month, day, hour, minute, second))
    if match[8]:
        offset = 60 * (60 * int(match[9]) + int(match[10]))
        seconds -= offset if match[8] == "+" else -offset
    return seconds * SECOND + int((match[7] or "").ljust(9, "0"))


def format_time(time: int) -> str:
    """Returns nanoseconds since 1970 as RFC 3339 in UTC, exactly."""
    seconds, rest = divmod(time, SECOND)
    whole = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def shown(line: Line, colours: bool = False) -> str:
    """Returns a line as ``swell logs`` prints it: local time, replica, message.

    What a terminal would obey is taken out: a log must not move the cursor, ring, or set the
    window's title. Of a progress bar that overwrote itself, the last state remains.

    Args:
        line: what to show.
        colours: whether to leave the message its colours, and to add some.
    """
    at = at_clock(line.time / SECOND)
    replica = visible(line.replica)
    head = f"\x1b[2m{at}\x1b[0m \x1b[36m{replica}\x1b[0m" if colours else f"{at} {replica}"
    parts = line.message.rstrip("\r\n").split("\n") or [""]
    return "\n".join(f"{head} {_clean(part, colours)}" for part in parts)


def plain(text: str) -> str:
    """Returns a message without what a terminal would obey, colours included."""
    return _ESCAPES.sub("", text)


def _clean(text: str, colours: bool) -> str:
    text = text.rstrip("\r").rpartition("\r")[2].expandtabs(4)
    pieces, end, coloured = [], 0, False
    for colour in _COLOUR.finditer(text):
        pieces.append(_printable(text[end : colour.start()]))
        pieces.append(colour[0] if colours else "")
        end, coloured = colour.end(), colours
    pieces.append(_printable(text[end:]))
    return "".join(pieces) + ("\x1b[0m" if coloured else "")


def _printable(text: str) -> str:
    return visible(plain(text))
