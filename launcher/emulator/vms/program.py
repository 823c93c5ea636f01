"""What a replica runs: an image's entry point or a command, its arguments, its variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENTRY_POINT = ("-m", "trainer.agent")  # of our image, for the Python of a VM without one


@dataclass(frozen=True)
class Program:
    """One replica's program.

    A VM of kind ``container`` runs the image, as Vertex AI does. Other kinds have none: they run
    the command line alone, with the Python of this machine.

    Args:
        image: the container image.
        command: in place of the image's entry point; empty for that, where there is an image.
        args: the arguments of either.
        environment: the variables.
    """

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: Mapping[str, str]

    def argv(self) -> list[str]:
        """The command line where there are no images."""
        return [*self.command, *self.args]
