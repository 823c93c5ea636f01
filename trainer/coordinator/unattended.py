"""Whether anybody looks after the run: who does says so in the run directory, beat by beat. Pure.

A run goes on without: its machines train, and move on as far as the cloud lets them. But nobody
submits another attempt, keeps a limit, or tells a webhook, and nobody notices that nobody does. So
the leader says it, as an event and in its log, where Cloud Logging can raise an alarm. Beats are
watched by the leader's own clock; clocks of machines are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AFTER = 600.0  # seconds without anybody, after which that is told
STALE = 6  # beats without which somebody is gone, as among attendants
EVERY = 15.0, 600.0  # seconds from beat to beat, at least and at most, whatever a record says


@dataclass(frozen=True)
class Told:
    """What is to be told.

    Attributes:
        seconds: for which nobody has looked after the run.
        over: whether somebody does again.
    """

    seconds: float
    over: bool


class Attended:
    """Knows who looks after a run. All times are the leader's, in seconds."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[Any, float]] = {}  # the newest, and since when it is known
        self._seen: float | None = None  # when somebody was known to be there last
        self._told = False

    def look(self, records: Mapping[str, Mapping[str, Any]], now: float) -> Told | None:
        """Returns what is to be told; None most of the time.

        Args:
            records: what all say that look after the run, or did; none of an older version's run,
                of which nothing is known.
            now: the time.
        """
        if not records:
            return None
        here = [name for name, record in records.items() if self._is_here(name, record, now)]
        if here or self._seen is None:
            since, self._seen = self._seen, now
            told, self._told = self._told, False
            return Told(now - (since or now), over=True) if told and here else None
        if self._told or now - self._seen < AFTER:
            return None
        self._told = True
        return Told(now - self._seen, over=False)

    def _is_here(self, name: str, record: Mapping[str, Any], now: float) -> bool:
        beat, known = record.get("beat"), self._beats.get(name)
        if known is None or known[0] != beat:
            known = self._beats[name] = beat, now
        every = record.get("every")
        number = every if isinstance(every, int | float) and every == every else EVERY[0]
        limit = STALE * min(max(number, EVERY[0]), EVERY[1])
        return record.get("left") is not True and now - known[1] < limit
