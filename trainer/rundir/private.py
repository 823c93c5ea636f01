"""Folders and files that no other user of the machine can look into."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from trainer.rundir.retry import NO_ROOM
from trainer.rundir.spare import BLOCK, keep_spare, rewrite


def make_private(folder: Path) -> None:
    """Makes a folder for its user alone, and so those above it that are missing.

    One that is there already stays as it is: whoever made it said who may look into it.

    Raises OSError.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private(folder.parent)
        make_private(folder)
    except OSError:  # it is there; or else it cannot be made
        if not folder.is_dir():
            raise


def append_private(path: Path) -> BinaryIO:
    """Opens a file to read it and to write at its end, unbuffered; made for its user alone.

    One that is there already stays as it is. Raises OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(handle, "a+b", buffering=0)


def write_private(path: Path, text: str, spare: bool = False) -> None:
    """Writes a file that its user alone can read: all of it, or nothing.

    Args:
        path: the file.
        text: what is to be in it.
        spare: whether it must be written again when the disk is full.

    Raises OSError.
    """
    aside = path.with_suffix(".new")
    try:
        aside.unlink(missing_ok=True)  # whoever may read that goes on reading it
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        if error.errno not in NO_ROOM or not rewrite(path, text.encode()):
            raise
    if spare:
        keep_spare(path, max(BLOCK, 2 * len(text)), mode=0o600)  # it may grow
