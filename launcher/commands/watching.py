"""The command that shows a run as it goes on, and changes nothing about it."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import typer

from launcher.commands.errors import user_errors
from launcher.commands.options import RunName


def watch(run: RunName) -> None:
    """Show a run as it goes on, from anywhere; q or Ctrl-C leaves it as it is."""
    with user_errors():
        from launcher import home
        from launcher.commands.watched import Watched
        from launcher.keys import keys_of

        watched, over = Watched(home.find(run)), False
        with suppress(KeyboardInterrupt), keys_of(sys.stdin) as wait:
            over = watched.follow(sys.stdout, wait or _sleep, keys=wait is not None)
        if not over:
            typer.echo(f"swell: run {watched.run_id} goes on without being watched", err=True)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
