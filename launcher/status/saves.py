"""Which checkpoints of a run are there, as its events tell. Pure."""

from __future__ import annotations

import math
from typing import Any


class Saves:
    """The checkpoints that were written, but for those that are of no use any more.

    A run that goes back to one deletes those after it, and what a world has rejected is damaged.
    What is written at such a step later is another one.
    """

    def __init__(self) -> None:
        self._written: dict[int, float] = {}  # by step: when
        self._rejected: dict[int, float] = {}
        self._back: list[tuple[float, int]] = []  # when the run went back, and to which step
        self._failed: dict[int, tuple[float, str]] = {}  # by step: when, and why

    @property
    def newest(self) -> tuple[float, int] | None:
        """When the newest that is there was written, in Unix seconds, and its step."""
        return max(
            ((at, step) for step, at in self._written.items() if self._is_there(step)), default=None
        )

    def to_fields(self, now: float) -> dict[str, Any]:
        """The newest checkpoint, and those that failed since. ``now`` is in Unix seconds."""
        at, step = self.newest or (-math.inf, None)
        failed = sorted(one for one in self._failed.values() if one[0] > at)
        return {
            "step": step,
            "age": None if step is None else round(max(0.0, now - at), 1),
            "failed": len(failed),
            "reason": failed[-1][1] if failed else None,
        }

    def committed(self, step: int, at: float) -> None:
        """The checkpoint of ``step`` was written."""
        self._written[step] = max(at, self._written.get(step, at))

    def rejected(self, step: int, at: float) -> None:
        """That of ``step`` could not be used."""
        self._rejected[step] = max(at, self._rejected.get(step, at))

    def failed(self, step: int, at: float, reason: str) -> None:
        """That of ``step`` was not written."""
        known = self._failed.get(step, (at, reason))
        self._failed[step] = max(known, (at, reason))

    def went_back(self, step: int, at: float) -> None:
        """Those after ``step`` were deleted."""
        self._back.append((at, step))

    def _is_there(self, step: int) -> bool:
        at = self._written[step]
        gone = any(step > to and at <= when for when, to in self._back)
        return not gone and at > self._rejected.get(step, -math.inf)
