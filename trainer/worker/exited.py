"""A program that ends its own process: what is told of it.

Under a shell `sys.exit()` ends a program, and its code says how. A worker of a run is one process
of many: it ends when the run does, and a code says nothing of why. So whoever calls it is told
where that was, and what to do instead.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path

from trainer.rundir.usererror import Message
from trainer.worker.frames import LIBRARIES, is_swells, told

_INSTEAD = (
    "to complete it early call elastic.stop(), or return True from should_stop(); to fail it raise "
    "an error"
)


def exited(ending: SystemExit) -> str:
    """What a user is told of an exit before training was complete: its traceback, and a message."""
    code = "" if ending.code is None else repr(ending.code)
    place = place_of(ending)
    call = f"sys.exit({code}){place and f' at {place}'}"
    message = Message("SW5008", f"{call} ends a worker, and no run: {_INSTEAD}")
    return f"{told(ending).rstrip()}\n{message}"


def place_of(error: BaseException) -> str:
    """Where in the program ``error`` was raised: the innermost frame that is the program's own.

    As file:line, the file as seen from the current folder; "" where there is no such frame.
    """
    frames = [
        one
        for one in traceback.extract_tb(error.__traceback__)
        if not is_swells(one.filename) and not one.filename.startswith(("<", *LIBRARIES))
    ]
    if not frames:
        return ""
    file = Path(frames[-1].filename)
    with suppress(OSError, ValueError):  # there is none any more, or the file is elsewhere
        file = file.relative_to(Path.cwd())
    return f"{file}:{frames[-1].lineno}"
