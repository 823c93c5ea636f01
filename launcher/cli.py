"""The ``swell`` command."""

from __future__ import annotations

import gc
import os

import typer

from launcher.commands import (
    comparing,
    dashboards,
    explaining,
    exposing,
    goodput,
    jobs,
    new,
    output,
    profiles,
    reports,
    runs,
    tools,
    wanted,
    watching,
)
from launcher.commands.errors import warn
from launcher.commands.examples import with_examples
from launcher.commands.interrupts import leave, watch_interrupts
from launcher.run_states import CANCELLED
from launcher.terminal import guard, reopen_closed
from trainer.rundir.usererror import Message

app = typer.Typer(
    name="swell",
    help="Distributed PyTorch training on Spot GPUs that goes on while machines come and go.",
    epilog="Exit codes: 0 succeeded, 1 failed, 2 bad input, 3 cancelled, 4 limit reached. "
    "What the id of a message means: swell explain ID.",
    no_args_is_help=True,
    # Only when a shell asks: two options of a great length would lead all of --help.
    add_completion="_SWELL_COMPLETE" in os.environ,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than all of --help may take
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(jobs.launch)
app.command()(runs.attach)
app.command()(jobs.plan)
app.command()(jobs.doctor)
app.command()(jobs.schema)
app.command()(runs.status)
app.command()(watching.watch)
app.command()(goodput.goodput)
app.command()(reports.report)
app.command()(comparing.compare)
app.command()(dashboards.dashboard)
app.command()(exposing.metrics)
app.command(name="runs")(runs.list_runs)
app.command()(runs.checkpoints)
app.command()(output.output)
app.command()(runs.logs)
app.command()(profiles.profile)
app.command()(wanted.resize)
app.command()(wanted.move)
app.command()(runs.cancel)
app.command()(runs.preempt)
app.command()(tools.check)
app.command()(explaining.explain)
app.command()(explaining.completion)
app.add_typer(new.app, name="new", help="Write files to start from.")
app.add_typer(tools.images, name="image", help="Look at images that replicas run.")
app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)(tools.emulator)

with_examples(app)


def main() -> None:
    """The entry point of ``swell``."""
    lost = reopen_closed()
    guard()
    if lost == ["stdout"]:
        said = "standard output is closed, and what this prints is lost; swell status shows a run"
        warn(str(Message("SW2053", said)))
    # What is imported stays: looking through it for garbage takes a tenth of a short command.
    gc.set_threshold(100_000, 50, 100)
    # Else pydantic looks through all installed packages for plugins of its own, on every start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    watch_interrupts()
    try:
        app(prog_name="swell")  # python -m launcher.cli is the same command
    except KeyboardInterrupt:  # it came when a command had begun to end
        code = CANCELLED
    except SystemExit as end:
        if not end.code or not isinstance(end.code, int):
            raise
        code = end.code
    else:
        return
    leave(code)


if __name__ == "__main__":
    main()
