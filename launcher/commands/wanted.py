"""Commands that ask a fleet to be another while it trains."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors
from launcher.commands.options import RunName, Strategy


def resize(
    run: RunName,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=1, help="CustomJobs at a time, from now on.")
    ],
) -> None:
    """Have a fleet train on more CustomJobs, or on fewer, without a stop."""
    _ask(run, jobs=jobs)


def move(
    run: RunName,
    region: Annotated[
        str | None, typer.Option(metavar="REGION", help="Where, in place of the job's regions.")
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(metavar="MACHINE", help="On what, in place of the pools' machines."),
    ] = None,
    strategy: Annotated[
        Strategy | None, typer.Option(help="In place of the job's scheduling.")
    ] = None,
) -> None:
    """Move a fleet to another region, other machines or another price, without a stop."""
    if region is None and machine is None and strategy is None:
        fail("give --region, --machine or --strategy")
    _ask(run, None, region, machine, strategy)


def _ask(
    run: str,
    jobs: int | None = None,
    region: str | None = None,
    machine: str | None = None,
    strategy: Strategy | None = None,
) -> None:
    with user_errors():
        from launcher import home
        from launcher.asking import ask
        from launcher.supervision.wanted import Change
        from launcher.terminal import visible

        change = Change(jobs, region, machine, strategy.value if strategy else None)
        typer.echo(visible(ask(home.find(run), change)))
