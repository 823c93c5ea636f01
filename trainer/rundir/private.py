"""Folders and files that no other user of the machine can look into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


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


def write_private(path: Path, text: str) -> None:
    """Writes a file that its user alone can read: all of it, or nothing.

    Raises OSError.
    """
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)  # whoever may read that goes on reading it
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    aside.replace(path)
