"""Which batches of events a reader has seen, however they have been put together since. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.rundir.batches import Batch
from trainer.rundir.segments import Index

Spans = Mapping[str, tuple[int, int]]  # by writer: from which number on, and up to which


class Seen:
    """Batches that were seen: all up to a number, and some after it, for each writer.

    A list may lack a batch that is older than one it has, if they came while it was made.
    """

    def __init__(self) -> None:
        self._all: dict[str, int] = {}  # batches of lower numbers
        self._some: dict[str, set[int]] = defaultdict(set)  # and these

    @classmethod
    def from_json(cls, value: Any) -> Seen:
        """The inverse of ``to_json``. Raises ValueError for what that never returns."""
        seen = cls()
        try:
            seen._all = {str(writer): int(end) for writer, end in value["all"].items()}
            for writer, numbers in value["some"].items():
                seen._some[str(writer)] = {int(number) for number in numbers}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"this does not say which batches were seen: {error!r}") from None
        return seen

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        some = {writer: sorted(numbers) for writer, numbers in self._some.items() if numbers}
        return {"all": dict(self._all), "some": some}

    def __contains__(self, batch: Batch) -> bool:
        writer, number = batch
        return number < self._all.get(writer, 0) or number in self._some.get(writer, ())

    def add(self, batches: Iterable[Batch], index: Index) -> None:
        """From now on these have been seen, and all that an index covers."""
        for writer, number in batches:
            self._some[writer].add(number)
        for writer, end in index.covers.items():
            self._all[writer] = max(end, self._all.get(writer, 0))
            if writer in self._some:
                self._some[writer] = {one for one in self._some[writer] if one >= end}

    def lacks(self, index: Index, batches: Iterable[Batch]) -> bool:
        """Whether an index covers a batch that has not been seen, and is not one of these."""
        there: dict[str, int] = defaultdict(int)
        for batch in batches:
            there[batch.writer] += index.covered(batch)
        return any(
            end - self._count(writer, 0, end) > there[writer]
            for writer, end in index.covers.items()
        )

    def of(self, spans: Spans) -> bool | None:
        """Whether all batches of some spans have been seen; None for some of them."""
        counts = [(self._count(writer, *span), span[1] - span[0]) for writer, span in spans.items()]
        if all(count == of for count, of in counts):
            return True
        return None if any(count for count, _ in counts) else False

    def _count(self, writer: str, first: int, end: int) -> int:
        below = max(0, min(end, self._all.get(writer, 0)) - first)
        return below + sum(first <= one < end for one in self._some.get(writer, ()))
