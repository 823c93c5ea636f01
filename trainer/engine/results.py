"""What a program has reported of the states that it evaluated.

A state may be reported of several times, by parts of a program that know nothing of each other; and
a checkpoint of it has all of that, and nothing of what was reported of another state.
"""

from __future__ import annotations


class Results:
    """The newest results, and of which state they are.

    Attributes:
        newest: what was reported at last, by name.
        step: of the state that it is about; -1 before anything was reported.
    """

    def __init__(self) -> None:
        self.newest: dict[str, float] = {}
        self.step = -1

    def add(self, metrics: dict[str, float], step: int) -> None:
        """Takes what is reported of the state of ``step``: all that is counts together."""
        self.newest = {**self.of(step), **metrics}
        self.step = step

    def of(self, step: int) -> dict[str, float]:
        """What was reported of the state of ``step``; {} if that was not evaluated.

        What belongs to another state would stand in a checkpoint as if it were of this one.
        """
        return self.newest if self.step == step else {}
