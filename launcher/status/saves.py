"""Which checkpoints of a run are there, as its events tell. Pure."""

from __future__ import annotations


class Saves:
    """The checkpoints that were written, but for those that are of no use any more.

    A run that goes back to one deletes those after it, and what a world has rejected is damaged.
    What is written at such a step later is another one.
    """

    def __init__(self) -> None:
        self._written: dict[int, float] = {}  # by step: when
        self._rejected: dict[int, float] = {}
        self._back: list[tuple[float, int]] = []  # when the run went back, and to which step

    @property
    def newest(self) -> tuple[float, int] | None:
        """When the newest that is there was written, in Unix seconds, and its step."""
        return max(
            ((at, step) for step, at in self._written.items() if self._is_there(step)), default=None
        )

    def committed(self, step: int, at: float) -> None:
        """The checkpoint of ``step`` was written."""
        self._written[step] = max(at, self._written.get(step, at))

    def rejected(self, step: int, at: float) -> None:
        """That of ``step`` could not be used."""
        self._rejected[step] = max(at, self._rejected.get(step, at))

    def went_back(self, step: int, at: float) -> None:
        """Those after ``step`` were deleted."""
        self._back.append((at, step))

    def _is_there(self, step: int) -> bool:
        at = self._written[step]
        gone = any(step > to and at <= when for when, to in self._back)
        return not gone and at > self._rejected.get(step, float("-inf"))
