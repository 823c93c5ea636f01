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


def refusal(line: str, whole: bool = True) -> str:
    """Returns what the command's parser says against a line; nothing if it takes it.

    Args:
        line: with or without a redirection or a pipe.
        whole: whether it has all arguments; if not, options and the command alone are looked at.
    """
    words = shlex.split(re.split(r" [|>]", line)[0])
    if words[:1] != ["swell"]:
        return f"{line}: does not begin with swell"
    command = _command()
    path = words[1:]
    context = typer.Context(command, info_name="swell", resilient_parsing=True)
    try:
        while isinstance(command, typer.core.TyperGroup) and path:
            _, command, path = command.resolve_command(context, path)
            if command is None:
                return f"{line}: there is no such command"
        if whole:
            command.make_context(command.name or "", list(path))
        else:
            command.make_parser(context).parse_args(list(path))
    except Exception as error:  # of typer's own kinds, which differ between its versions
        return f"{line}: {error}"
    return ""
