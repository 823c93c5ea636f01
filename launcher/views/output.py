"""Output for terminals, files and pipes alike.

What is not a terminal gets no control codes, which rich sees to, and no padding, which it does not.
What is drawn on a terminal has codes of rich's, and none of the texts' own (launcher.terminal).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from launcher.terminal import unguarded, visible


class Screen(Console):
    """A console for texts from anywhere: they say nothing to the terminal, nor to rich.

    Args:
        file: where to print; by default standard output.
        width: columns; by default the terminal's.
        force_terminal: whether it is a terminal; by default that is found out.
    """

    def __init__(
        self,
        file: IO[str] | None = None,
        *,
        width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        super().__init__(
            file=unguarded(file or sys.stdout),
            width=width,
            force_terminal=force_terminal,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich; before it measures the text."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See rich; all that is printed or laid out comes by here, in pieces."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(visible(piece.text), piece.style)


@contextmanager
def unpadded(console: Console) -> Iterator[None]:
    """Strips the spaces from the ends of the lines that ``console`` prints in the block.

    rich fills lines up to the console's width. On a terminal nobody sees it; in a file or a pipe
    it is in the way of whatever reads on. Everything is printed when the block ends.
    """
    with console.capture() as captured:
        yield
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join(lines), file=console.file, flush=True)


def print_wide(console: Console, table: Table) -> None:
    """Prints a table as wide as it needs to be: ids are there to be copied, not to be cut."""
    wide = Screen(console.file, force_terminal=console.is_terminal, width=1000)
    with unpadded(wide):
        wide.print(table)
