"""Folders that no other user of the machine can look into."""

from __future__ import annotations

from pathlib import Path


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
