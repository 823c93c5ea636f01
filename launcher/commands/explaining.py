"""Commands that help with the command itself: what a message means, and completion."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import launcher
from launcher.commands.errors import fail, user_errors
from launcher.commands.options import AsJson


class Shell(str, Enum):
    """A shell that can complete commands."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


_SCRIPTS = {Shell.bash: "swell", Shell.zsh: "_swell", Shell.fish: "swell.fish"}


def explain(
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID...", help="As it stands in brackets; its number is enough."),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a message means, by its id, and what to do about it."""
    with user_errors(offline=True):
        from launcher.kinds import id_of, kinds

        known = {it.id: it for it in kinds(_packaged("messages.md"))}
        wanted = list(dict.fromkeys(map(id_of, ids)))
        for id in wanted:
            if id not in known:
                fail(
                    f"{id[:60]}: is no id of a message; write one as it stands in brackets",
                    "SW6280",
                )
        if as_json:
            import json
            from dataclasses import asdict

            said = [asdict(known[id]) | {"retired": known[id].retired} for id in wanted]
            typer.echo(json.dumps(said, indent=2))
            return
        for id in wanted:
            kind = known[id]
            typer.echo(f"{id}  {kind.name}\n  when  {kind.when}\n  do    {kind.remedy}")


def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.", show_choices=False)],
) -> None:
    """Print what makes a shell complete commands, options and ids of runs."""
    with user_errors(offline=True):
        typer.echo(_packaged(f"completions/{_SCRIPTS[shell]}"), nl=False)


def _packaged(file: str) -> str:
    """The text of a file that is installed with the launcher. Raises OSError."""
    return (Path(launcher.__file__).parent / file).read_text("utf-8")
