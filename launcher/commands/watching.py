"""The command that shows a run as it goes on, and changes nothing about it."""

from __future__ import annotations

import sys
import time

import typer

from launcher.commands.errors import user_errors
from launcher.commands.options import RunName


def watch(run: RunName) -> None:
    """Show a run as it goes on, from anywhere; Ctrl-C leaves it as it is."""
    with user_errors():
        from launcher import home
        from launcher.commands.watched import Watched

        watched = Watched(home.find(run))
        try:
            watched.follow(sys.stdout, time.sleep)
        except KeyboardInterrupt:
            typer.echo(f"swell: run {watched.run_id} goes on without being watched", err=True)
