"""Which lines of a log that is looked at again and again are new; pure.

A log service is asked for everything since some time, in order of time. Asking since the newest
line seen would lose lines: entries of one time may be split between two looks, and an entry is
often to be seen only seconds after its time (the agent on its VM sends in batches, replicas are
not equally quick). So each look begins WINDOW before the newest line of the look before it, and
what is in that overlap is recognised by (time, key), which together make an entry one of a kind.

What is promised: if every entry can be seen within WINDOW of its own time, each is returned
exactly once, and the lines of one look are in order of time. An entry that comes later still is
lost when it lies before the overlap. The overlap is reckoned from the newest line, but never from
later than the time at which the look began: while many pages are read, or when the clock of a
replica is ahead, late entries may still come for the time before. (So this machine's own clock
must not be ahead by more than WINDOW less the lateness; when it is behind, looks cost more.)

Memory: the keys of the lines within WINDOW, however long the log.
"""

from __future__ import annotations

from collections.abc import Iterable

from launcher.logs.logline import SECOND, Line

WINDOW = 30 * SECOND


class Tail:
    """What has been seen of one log.

    Args:
        since: lines before this time are of no interest; None for all.
        window: how late an entry may come, in nanoseconds.
    """

    def __init__(self, since: int | None = None, window: int = WINDOW) -> None:
        self._since = since
        self._window = window
        self._newest: int | None = None
        self._began: int | None = None  # when the present look did
        self._seen: dict[tuple[str, int, str], None] = {}

    def begin(self, now: int) -> int | None:
        """Begins a look. Returns the time since which to ask, or None for everything.

        Args:
            now: the time of day, in nanoseconds.
        """
        horizon = self._horizon()
        if horizon is not None:
            self._since = horizon if self._since is None else max(self._since, horizon)
        self._began = now
        if self._since is not None:
            self._forget(self._since)
        return self._since

    def take(self, lines: Iterable[Line]) -> list[Line]:
        """Returns those of the next lines of this look that are new, in order of time.

        Args:
            lines: what the log answered, or a page of it; no later page has earlier lines.
        """
        new: list[Line] = []
        reached: int | None = None
        for line in lines:
            reached = line.time
            key = (line.replica, line.time, line.key)
            if key in self._seen or (self._since is not None and line.time < self._since):
                continue
            self._seen[key] = None
            self._newest = line.time if self._newest is None else max(self._newest, line.time)
            new.append(line)
        horizon = self._horizon()
        if reached is not None and horizon is not None:
            self._forget(min(reached, horizon))  # what lies beyond may come again in this look
        return sorted(new, key=lambda line: line.time)

    def _horizon(self) -> int | None:
        """Before this no later look will ask."""
        if self._newest is None or self._began is None:
            return None
        return min(self._newest, self._began) - self._window

    def _forget(self, before: int) -> None:
        for key in [key for key in self._seen if key[1] < before]:
            del self._seen[key]
