"""Mistakes that a user can fix become one line and an exit code, never a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

import typer

from launcher.api.reach import impatient, watching
from launcher.run_states import BAD_INPUT, CANCELLED, FAILED, OK


@contextmanager
def user_errors(*, offline: bool = False) -> Iterator[None]:
    """Turns the errors of a command into lines for its user and the command's exit code.

    Args:
        offline: the command uses none of the libraries that log what they also raise.
    """
    if not offline:
        _silence_libraries()
    try:
        with watching(partial(impatient, say=_say)):
            yield
    except KeyboardInterrupt:
        raise typer.Exit(CANCELLED) from None
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        raise typer.Exit(OK) from None
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if isinstance(error, typer.Exit | typer.Abort):
            raise
        code = _exit_code(error)
        if code is None:
            raise
        text = _shown(error)
        for line in text.splitlines():
            typer.echo(f"swell: {line}", err=True)
        _point(text)
        raise typer.Exit(code) from None


def _say(line: str) -> None:
    with suppress(OSError):
        typer.echo(f"swell: {line}", err=True)


def _silence_libraries() -> None:
    """What they log, with its traceback, they raise as well."""
    import logging

    for library in ("gcsfs", "google"):
        logging.getLogger(library).addHandler(logging.NullHandler())
        logging.getLogger(library).propagate = False


def _exit_code(error: Exception) -> int | None:
    from launcher.draft import LaunchError
    from launcher.home import RunError
    from launcher.job.jobfile import JobFileError
    from launcher.packing.ignore import PackingError
    from launcher.supervision.wanted import WantedError
    from trainer.rundir.usererror import UserError

    if isinstance(error, JobFileError | LaunchError | PackingError | RunError | WantedError):
        return BAD_INPUT
    if isinstance(error, UserError | OSError | ImportError):
        return FAILED
    return None


def _shown(error: Exception) -> str:
    """Returns what to print of an error; one of a file or of an import has no id of its own."""
    from trainer.rundir.usererror import shown

    return shown(error, "SW2023" if isinstance(error, ImportError) else "SW2022")


def fail(message: str, id: str = "SW1201") -> NoReturn:
    """Ends the command: what it was given is wrong; by default, options that do not fit."""
    from trainer.rundir.usererror import Message

    typer.echo(f"swell: {Message(id, message)}", err=True)
    _point(f"[{id}]")
    raise typer.Exit(BAD_INPUT)


def _point(text: str) -> None:
    """Says how to learn more of what ``text`` has the ids of, to a person only.

    The ids alone lead there. In a pipe or a log a further line would be noise, and a change for
    whoever reads it.
    """
    if sys.stderr.isatty() and (ids := dict.fromkeys(re.findall(r"\[(SW\d{4})\]$", text, re.M))):
        typer.echo(f"For more: swell explain {' '.join([*ids][:4])}", err=True)


def warn(line: str) -> None:
    """Tells the user of something that does not keep the command from going on."""
    typer.echo(f"swell: warning: {line}", err=True)


def seconds_in(option: str, duration: str) -> float:
    """Returns the seconds of an option's duration; ends the command when it is none."""
    from launcher.job.durations import parse_duration
    from trainer.rundir.usererror import Unusable

    try:
        return parse_duration(duration).total_seconds()
    except Unusable as error:
        fail(f"{option}: {error}", error.id)
