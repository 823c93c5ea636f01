"""What a replica runs: an image's entry point or a command, its arguments, its variables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

ENTRY_POINT = (sys.executable, "-m", "trainer.agent")  # of our image, where no image is run


@dataclass(frozen=True)
class Program:
    """One replica's program.

    Args:
        image: the container image.
        command: in place of the image's entry point; empty for that.
        args: the arguments of either.
        environment: the variables.
    """

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: Mapping[str, str]

    def argv(self) -> list[str]:
        """The command line where there are no images: our own image's entry point is known."""
        return [*(self.command or ENTRY_POINT), *self.args]
