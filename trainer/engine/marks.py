"""The marks that loaders have come to in data without a length, as one rank knows them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.engine.mistake import Mistake
from trainer.loaders.mark import OTHER_SAMPLES, STEADY, Mark, Seen, differ

log = logging.getLogger("swell.data")
AT_MOST = 2  # batches that are read again without a word


class Marks:
    """Where the data can be read on, from where the running step begins.

    What was read there is compared: with what other loaders of this rank have read, and, by
    ``require_same_samples``, with what other ranks have.
    """

    def __init__(self) -> None:
        self._found: dict[int, Mark] = {}

    def note(self, marks: Iterable[Mark]) -> None:
        """Takes marks over. Raises Mistake where the same place has another sample."""
        for mark in marks:
            known = self._found.get(mark.place)
            if known is not None and differ(known.seen, mark.seen):
                at = known.digest != mark.digest
                raise _unsteady(mark.place, at, "two loaders, or workers, have read unlike samples")
            self._found[mark.place] = mark if known is None else known.with_more(mark)

    def begin(self, place: int, batch: int, source: dict[str, Any] | None, first: bool) -> None:
        """A step begins at a place.

        Args:
            batch: samples of a step.
            source: the mark that came with the state.
            first: whether it is this process's first.
        """
        if source is not None:
            self.note([Mark.of(source)])
        mark = self.before(place)
        start = 0 if mark is None else mark.reach
        if first and place - start > AT_MOST * batch:
            log.warning(
                "the data set has no state_dict() to go on from: %s samples are read again, and "
                "dropped, to come to sample %s",
                f"{place - start:,}",
                f"{place:,}",
            )
        kept = place if mark is None else mark.place
        self._found = {at: one for at, one in self._found.items() if at >= kept}

    def before(self, place: int) -> Mark | None:
        """The newest mark that is not behind a place."""
        return self._found.get(max((one for one in self._found if one <= place), default=-1))

    def seen(self, place: int) -> Seen | None:
        """What was read here at a place, and before it; None where nobody has read it here."""
        mark = self._found.get(place)
        return None if mark is None else mark.seen


def require_same_samples(told: Sequence[Seen | None], place: int) -> None:
    """Raises Mistake unless all ranks have read the same at a place, and before it.

    Args:
        told: by each rank; None by one that has not read there.
    """
    for what in (0, 1):
        sides: dict[int, list[str]] = {}
        for rank, one in enumerate(told):
            if one is not None and (digest := one[what]) is not None:
                sides.setdefault(digest, []).append(str(rank))
        if len(sides) > 1:
            ranks = " and ".join(", ".join(of) for of in sides.values())
            raise _unsteady(place, not what, f"ranks {ranks} have read unlike samples")


def _unsteady(place: int, at: bool, what: str) -> Mistake:
    where = f"sample {place}" if at else f"the samples before {place}"
    return Mistake(OTHER_SAMPLES, f"{where} of the data set: {what}; {STEADY}")
