"""The marks that loaders have come to in data without a length, as one rank knows them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.engine.mistake import Mistake
from trainer.loaders.mark import OTHER_SAMPLES, STEADY, Mark

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
            if known is not None and known.digest != mark.digest:
                raise _unsteady(mark.place, "two loaders, or workers, have read unlike samples")
            if known is None or known.state is None:
                self._found[mark.place] = mark

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

    def digest(self, place: int) -> int | None:
        """That of the sample at a place; None where nobody has read it here."""
        mark = self._found.get(place)
        return None if mark is None else mark.digest


def require_same_samples(digests: Sequence[int | None], place: int) -> None:
    """Raises Mistake unless all ranks that have read the sample at a place have read the same."""
    if len({one for one in digests if one is not None}) > 1:
        sides: dict[int, list[str]] = {}
        for rank, one in enumerate(digests):
            if one is not None:
                sides.setdefault(one, []).append(str(rank))
        ranks = " and ".join(", ".join(of) for of in sides.values())
        raise _unsteady(place, f"ranks {ranks} have read unlike samples")


def _unsteady(place: int, what: str) -> Mistake:
    return Mistake(OTHER_SAMPLES, f"sample {place} of the data set: {what}; {STEADY}")
