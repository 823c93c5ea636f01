"""Commands that need neither a job nor a run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors
from launcher.commands.options import AsJson
from launcher.run_states import FAILED

images = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@images.callback()
def _images() -> None:
    """Makes ``image`` a group although it has one command."""


@images.command(name="check")
def check_image(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image on this machine.")],
    as_json: AsJson = False,
) -> None:
    """Run an image here, without a network, and say whether it can be a replica."""
    with user_errors(offline=True):
        from dataclasses import asdict

        from launcher.doctor import image as images
        from trainer.rundir.usererror import Message

        findings = images.check_image(image)
        if as_json:
            typer.echo(json.dumps([asdict(found) for found in findings], indent=2))
        else:
            for found in findings:
                line = Message(found.id, f"{found.what}: {found.detail}")
                typer.echo(f"{'ok     ' if found.ok else 'problem'}  {line}")
    if not all(found.ok for found in findings):
        raise typer.Exit(FAILED)


def check(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="module:Class, or path/to/file.py:Class.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Steps to take.")] = 2,
    world: Annotated[int, typer.Option(min=1, help="Workers of the world beside that of one.")] = 2,
    args: Annotated[str, typer.Option(metavar="JSON", help="Arguments of the class.")] = "{}",
    as_json: AsJson = False,
) -> None:
    """Try a task on this machine: examine it, take a few steps, save and load."""
    # In a process of its own: the launcher is without torch.
    line = [sys.executable, "-m", "trainer.check", task, "--args", args]
    line += ["--steps", str(steps), "--world", str(world), *["--json"] * as_json]
    raise typer.Exit(subprocess.run(line, check=False).returncode)


def emulator(context: typer.Context) -> None:
    """Serve the Vertex AI API on this machine (--state DIR), or stop (stop RUN | --state DIR)."""
    if context.args[:1] == ["stop"]:
        _stop_emulator(context.args[1:])
        return
    from launcher.emulator.__main__ import main as serve

    raise typer.Exit(serve(context.args))


def _stop_emulator(arguments: list[str]) -> None:
    with user_errors():
        from pathlib import Path

        from launcher import home
        from launcher.local.emulator import stop

        match arguments:
            case ["--state", folder]:
                state, whose = Path(folder), folder
            case [name] if not name.startswith("-"):
                run_id = str(home.read_run(home.find(name))["id"])
                state, whose = home.local_folder(run_id), f"run {run_id}"
            case _:
                fail("swell emulator stop wants a run, or --state and its folder")
        stopped = stop(state)
        typer.echo(f"the emulator of {whose} is stopped" if stopped else f"{whose} has no emulator")
