"""The command that puts runs side by side."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors
from launcher.commands.options import AsJson, other_run_ids


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Two to eight ids, beginnings of them, or run directories.",
            autocompletion=other_run_ids,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what differs in the jobs of several runs, then their figures side by side."""
    with user_errors():
        from launcher import home
        from launcher.status.configuration import configured
        from launcher.status.status import read_status
        from launcher.views.compare import MOST, Compared, print_compared, to_json
        from launcher.views.output import Screen

        names = list(dict.fromkeys(runs))
        if not 2 <= len(names) <= MOST:
            fail(f"{len(names)} to compare: name between two and {MOST} different runs", "SW6225")
        found = [home.find(name) for name in names]  # a slip in one is told at once
        if len({one.url for one in found}) < len(found):
            fail("two of the names are of the same run; name different ones", "SW6225")
        known = []
        for directory in found:
            run = home.read_run(directory)
            status = read_status(directory, audited=False, run=run)
            known.append(Compared(configured(run), status))
        if as_json:
            typer.echo(json.dumps(to_json(known), indent=2))
        else:
            print_compared(Screen(), known)
