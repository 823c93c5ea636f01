"""Sources without a length: of 0, 1, 2, …, pass after pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Log(list[int]):
    """What was read, by a source and all copies of it."""

    def __deepcopy__(self, memo: object) -> Log:
        return self


class Counting:
    """Gives the numbers of a pass, each with the number of the pass, if it is told that.

    Args:
        length: samples of a pass.
        log: what was read.
    """

    def __init__(self, length: int, log: Log | None = None) -> None:
        self.length = length
        self.log = log
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self.reading(0)

    def reading(self, start: int) -> Iterator[tuple[int, int]]:
        for number in range(start, self.length):
            if self.log is not None:
                self.log.append(number)
            yield self.epoch, number


class Seeking(Counting):
    """The same with a state, as Hugging Face's have it: that of the newest iterator."""

    def __init__(self, length: int, log: Log | None = None) -> None:
        super().__init__(length, log)
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for sample in self.reading(self.at):
            self.at += 1
            yield sample
        self.at = 0


class Iterators:
    """The state is the iterator's; a tensor in it, if ``odd``, cannot be kept."""

    def __init__(self, length: int, log: Log | None = None, odd: bool = False) -> None:
        self.length, self.log, self.odd = length, log, odd

    def __iter__(self) -> Any:
        return Places(self)


class Places:
    """Where one reader is."""

    def __init__(self, of: Iterators) -> None:
        self.of, self.at = of, 0

    def __iter__(self) -> Places:
        return self

    def __next__(self) -> tuple[int, int]:
        if self.at == self.of.length:
            raise StopIteration
        if self.of.log is not None:
            self.of.log.append(self.at)
        self.at += 1
        return 0, self.at - 1

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "odd": {1} if self.of.odd else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]
