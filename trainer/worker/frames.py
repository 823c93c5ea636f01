"""Tracebacks for the people whose program it is: they begin with the program's own frames."""

from __future__ import annotations

import os
import sysconfig
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_PACKAGE = Path(__file__).parents[1]
_TASKS = str(_PACKAGE / "tasks")  # these are programs, too
_RUN_BY = (str(_PACKAGE), "<frozen runpy>", "<frozen importlib")
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def told(error: BaseException) -> str:
    """Returns the traceback of ``error``, and of those before it, as Python would show it.

    The frames of whoever runs the program come first, and are left out where the program's
    follow; of a file that cannot be parsed none are left. Files in the current folder are told by
    their paths in it.
    """
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        one.__traceback__ = _users_part(one)  # hooks such as torch's look there
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    text = "".join(traceback.format_exception(error))
    with suppress(OSError):  # the program may have removed it
        # As Python shows a program that is started in its own folder: that of a VM's copy is long.
        text = text.replace(f'File "{os.getcwd()}/', 'File "')
    return text


def _users_part(error: BaseException) -> TracebackType | None:
    inner = error.__traceback__
    while inner is not None and is_swells(inner.tb_frame.f_code.co_filename):
        inner = inner.tb_next
    if inner is None:
        return None if isinstance(error, SyntaxError) else error.__traceback__
    # Where a library raises that Swell itself has called, it matters who called it.
    library = inner.tb_frame.f_code.co_filename.startswith(LIBRARIES)
    return error.__traceback__ if library else inner


def is_swells(file: str) -> bool:
    """Whether a frame of this file is of whoever runs the program."""
    return file.startswith(_RUN_BY) and not file.startswith(_TASKS)
