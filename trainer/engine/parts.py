"""A worker's samples of a step in parts, as a program loops over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor


class Parts:
    """This rank's samples of a step in parts, each of them for one backward pass.

    To be looped over. The last part's backward pass sums the gradients over the workers; where this
    rank has no part, the end of the loop does.

    Args:
        take: gives one part after another, and does what must be done between them.
        parts: sample ids, int64, each of shape [n].
    """

    def __init__(
        self, take: Callable[[Sequence[Tensor]], Iterator[Tensor]], parts: Sequence[Tensor]
    ) -> None:
        self._take = take
        self._parts = parts

    def __len__(self) -> int:
        """How many parts this rank has; 0 if it has no sample in the step."""
        return len(self._parts)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self._take(self._parts)
