"""``swell new``: files to start from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


Into = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where to; by default the folder NAME.")
]


@app.command()
def task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What its file is called: my_task.")],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="KIND",
            help="tabular, digits, lm, finetune or images: what it is now.",
        ),
    ] = "tabular",
    into: Into = None,
) -> None:
    """Write a working task with its test and its job file, to start from."""
    with user_errors(offline=True):
        from launcher import starter

        _require_module(name)
        if start not in starter.KINDS:
            fail(f"--from {start}: write one of {', '.join(starter.KINDS)}", "SW6214")
        kind = starter.KINDS[start]
        folder = Path(name) if into is None else into
        files = starter.files(kind, name, _sources())
        _write(folder, files)
        sample = "  python sample.py\n" if kind.sample else ""
        typer.echo(
            f"{', '.join(files)} are in {folder}. Try them there:\n"
            f"{sample}  python -m pytest test_{name}.py\n"
            f"  swell launch {name}.yaml"
        )


@app.command()
def script(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What its file is called: train.")],
    into: Into = None,
) -> None:
    """Write a working loop of your own with its job file, to start from."""
    with user_errors(offline=True):
        from launcher.newjob import job_file

        _require_module(name)
        folder = Path(name) if into is None else into
        text = _sources()["own_loop.py"].replace("own_loop", name)
        job = job_file(f"{name}.py", "script", f"{name}.yaml", '[--epochs, "200"]')
        _write(folder, {f"{name}.py": text, f"{name}.yaml": job})
        typer.echo(
            f"{name}.py, {name}.yaml are in {folder}. Try them there:\n"
            f"  python {name}.py\n"
            f"  swell launch {name}.yaml"
        )


@app.command()
def job(
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="train.py, or FILE.py:CLASS for a task.")
    ],
) -> None:
    """Write a job file beside a program of yours, which runs it here and on Vertex AI."""
    with user_errors(offline=True):
        from launcher.newjob import field_of, job_file

        file, _, task = program.partition(".py:")
        path = Path(f"{file}.py" if task else program)
        if path.suffix != ".py" or not path.is_file():
            fail(f"{program}: write the path of a Python file that there is", "SW6281")
        try:
            field = "task" if task else field_of(path.read_bytes())
        except (SyntaxError, ValueError) as error:
            fail(f"{path}: is no Python that can be read: {error}", "SW6282")
        said = f"{path.name}:{task}" if task else path.name
        to = path.with_suffix(".yaml")
        _write(path.parent, {to.name: job_file(said, field, to.name)}, "edit or rename it")
        typer.echo(f"{to} runs it as {field}: {said}\n  swell plan {to}\n  swell launch {to}")


def _require_module(name: str) -> None:
    from launcher import starter

    if not starter.valid(name):
        fail(
            f"{name!r} cannot be a module of Python's, or is one already; write lower-case "
            "letters, digits and _, a letter first, as my_task",
            "SW6213",
        )


def _sources() -> dict[str, str]:
    """The files that a user can start from, by name."""
    import trainer

    tasks = Path(trainer.__file__).parent / "tasks"
    return {file.name: file.read_text("utf-8") for file in tasks.glob("*.py")}


def _write(
    folder: Path, files: dict[str, str], remedy: str = "choose another name, or --into"
) -> None:
    """All files or none; none that is there is written over. Raises OSError."""
    there = [file for file in files if (folder / file).exists()]
    if there:
        said = ", ".join(str(folder / file) for file in there)
        fail(f"{said}: is there already; {remedy}", "SW6215")
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
