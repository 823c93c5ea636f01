"""What a program has written beside its code: files of its own that end with the VM.

Its current folder is where the run's code was unpacked, on each VM anew. Nothing copies what it
writes there, unlike its checkpoints and, of a torchrun script, what is in SWELL_OUTPUT_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from trainer.protocol.session import CodeSettings
from trainer.rundir.usererror import Message

SAID = 3  # names
READY = "ready"  # beside the code's folder; made when all of it was there, and what it requires


def mark_ready(folder: Path) -> None:
    """Notes that what is in the code's folder from now on the program has made. Raises OSError."""
    mark = folder.parent / READY
    if not mark.exists():
        mark.touch()


def written(folder: Path) -> list[str]:
    """Returns the files, by their paths in the code's folder, that are not of the run's code.

    Those that were written since `mark_ready`, but for Python's byte code; sorted. What cannot be
    looked at is not among them.
    """
    try:
        since = (folder.parent / READY).stat().st_mtime_ns
    except OSError:
        return []
    return sorted(str(path.relative_to(folder)) for path in _newer(folder, since))


def tell(code: CodeSettings | None, emit: Callable[..., None]) -> None:
    """Tells of these files, if there are any, by the event `unsaved_files`.

    Args:
        code: where it is, as the agent has brought it; None for a run without.
        emit: of an EventWriter.
    """
    files = written(Path(code.folder)) if code is not None else []
    if not files:
        return
    more = f" and {len(files) - SAID:,} more" if len(files) > SAID else ""
    text = (
        f"the program has written {', '.join(files[:SAID])}{more} beside its code, and files there "
        "end with their VM; save in the state, report(), a bucket, or a torchrun script's "
        "SWELL_OUTPUT_DIR"
    )
    emit("unsaved_files", files=len(files), reason=str(Message("SW5028", text)))


def _newer(folder: Path, since: int) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            with suppress(OSError):
                # When it was changed here: a copy may have the times of what it was copied from.
                if os.lstat(path := Path(root, name)).st_ctime_ns > since:
                    yield path
