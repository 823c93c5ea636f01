"""The command that fetches what a torchrun script has written."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors
from launcher.commands.options import AsJson, RunName


def output(
    run: RunName,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FOLDER", help="Write the files there, a new folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what a torchrun script has written to SWELL_OUTPUT_DIR, or fetch it."""
    with user_errors():
        from pathlib import Path

        from launcher import home
        from launcher.packing.pack import in_bytes
        from launcher.words import one_line
        from trainer.outputs.outputs import fetch, newest_version

        found = home.find(run)
        version = newest_version(found)
        if to is not None:
            folder = Path(to)
            if folder.exists():
                fail(f"--to {to}: is there already; name a new folder")
            fetch(found, version, folder)
        sizes = {
            name: sum(file.size for file in files.values())
            for name, files in sorted(version.entries.items())
        }
        if as_json:
            typer.echo(json.dumps(sizes, indent=2))
            return
        if not sizes:
            typer.echo("Nothing is saved yet.")
        for name, size in sizes.items():
            typer.echo(f"{one_line(name, 60):<60} {in_bytes(size):>12}")
        if to is not None:
            typer.echo(f"{len(version.files)} files are in {to}")
