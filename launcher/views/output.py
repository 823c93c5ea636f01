"""Output for terminals, files and pipes alike.

What is not a terminal gets no control codes, which rich sees to, and no padding, which it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table


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
    wide = Console(file=console.file, force_terminal=console.is_terminal, width=1000)
    with unpadded(wide):
        wide.print(table)
