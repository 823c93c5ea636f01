"""``swell new``: files to start from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _new() -> None:
    """Makes ``new`` a group although it has one command."""


@app.command()
def task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What its file is called: my_task.")],
    start: Annotated[
        str, typer.Option("--from", metavar="KIND", help="tabular, digits or lm: what it is now.")
    ] = "tabular",
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to; by default the folder NAME.")
    ] = None,
) -> None:
    """Write a working task with its test and its job file, to start from."""
    with user_errors(offline=True):
        import trainer
        from launcher import starter

        if not starter.valid(name):
            fail(
                f"{name!r} cannot be a module of Python's, or is one already; write lower-case "
                "letters, digits and _, a letter first, as my_task",
                "SW6213",
            )
        if start not in starter.KINDS:
            fail(f"--from {start}: write one of {', '.join(starter.KINDS)}", "SW6214")
        folder = Path(name) if into is None else into
        tasks = Path(trainer.__file__).parent / "tasks"
        sources = {file.name: file.read_text("utf-8") for file in tasks.glob("*.py")}
        files = starter.files(starter.KINDS[start], name, sources)
        there = [file for file in files if (folder / file).exists()]
        if there:
            said = ", ".join(str(folder / file) for file in there)
            fail(f"{said}: is there already; choose another name, or --into", "SW6215")
        _write(folder, files)
        typer.echo(
            f"{', '.join(files)} are in {folder}. Try them there:\n"
            f"  python -m pytest test_{name}.py\n"
            f"  swell launch {name}.yaml"
        )


def _write(folder: Path, files: dict[str, str]) -> None:
    """All files or none; none that is there is written over. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for name, text in files.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                written.append(folder / name)
                file.write(text)
    except OSError:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
