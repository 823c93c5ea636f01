"""The command that tells where the time of a run's VMs went."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from launcher.commands.errors import fail, seconds_in, user_errors
from launcher.commands.options import AsJson, RunName

INTERVALS = 500  # that are told of at once


def goodput(
    run: RunName,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only the last 2h, 3d, …")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only up to so long ago.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="DURATION", help="A line for each 10min, 1h, …")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where the time of a run's VMs went, and their money: training, and what was lost."""
    with user_errors():
        from launcher import home
        from launcher.status.status import read_timeline
        from launcher.views.goodput import NONE, print_goodput, print_intervals
        from launcher.views.output import Screen

        back = None if since is None else seconds_in("--since", since)
        to = 0.0 if until is None else seconds_in("--until", until)
        step = None if every is None else seconds_in("--every", every)
        if back is not None and back <= to:
            fail(
                f"--since {since} --until {until} leave no time: both count back from now (of a "
                "run that is over, from its end), so --since must be longer",
                "SW6217",
            )
        if step is not None and not step > 0:
            fail("--every 0s makes no lines: it must be longer than 0", "SW6218")
        timeline = read_timeline(home.find(run))
        if timeline is None:
            typer.echo("null" if as_json else NONE)
            return
        end = timeline.end - to
        begin = timeline.start if back is None else max(timeline.start, timeline.end - back)
        if step is None:
            ledger = timeline.between(begin, end)
            if as_json:
                typer.echo(json.dumps(ledger.to_json(), indent=2))
            else:
                print_goodput(Screen(), ledger)
            return
        count = int(max(0.0, end - begin) // step) + 1
        if count > INTERVALS:
            fail(
                f"--every {every} makes {count:,} lines; at most {INTERVALS} are told of: write a "
                f"longer one, or --since for a part of the run",
                "SW6218",
            )
        ledgers = [
            timeline.between(begin + step * number, min(end, begin + step * (number + 1)))
            for number in range(count)
        ]
        ledgers = [one for one in ledgers if one.until > one.since] or ledgers[:1]
        if as_json:
            typer.echo(json.dumps([one.to_json() for one in ledgers], indent=2))
        else:
            print_intervals(Screen(), ledgers)
