"""A line as a reader would type it, taken by the ``swell`` command and not carried out."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import typer
import typer.core
import typer.main

from launcher.cli import app


@cache
def _command() -> Any:
    """The command, put together once: that takes longer than a line."""
    return typer.main.get_command(app)


def take(line: str, whole: bool = True) -> None:
    """Raises what the command's parser raises of a line that begins with ``swell``.

    Args:
        line: with or without a prompt, a redirection or a pipe.
        whole: whether it has all arguments; if not, options and the command alone are looked at.
    """
    words = shlex.split(re.split(r" [|>]", line)[0])
    assert words[0] == "swell", line
    command = _command()
    path = words[1:]
    context = typer.Context(command, info_name="swell", resilient_parsing=True)
    while isinstance(command, typer.core.TyperGroup) and path:
        name, command, path = command.resolve_command(context, path)
        assert command is not None, f"{name} is no command"
    if whole:
        command.make_context(command.name or "", list(path))
    else:
        command.make_parser(context).parse_args(list(path))
