"""The processes that a process has started, found by a word of their command line."""

from __future__ import annotations

from contextlib import suppress

import psutil


def children(parent: int, word: str, recursive: bool = False) -> list[psutil.Process]:
    """Returns a process's children that live and have a word among their arguments, oldest first.

    Args:
        parent: its process id.
        word: the whole argument, such as ``trainer.coordinator``.
        recursive: whether children's children count.
    """
    found = []
    for one in psutil.Process(parent).children(recursive):
        with suppress(psutil.NoSuchProcess):  # it has gone since
            if word in one.cmdline():
                found.append(one)
    return sorted(found, key=lambda one: one.create_time())
