"""The command that has a run that trains profile some of its steps."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from launcher.commands.errors import user_errors
from launcher.commands.options import AsJson, RunName

OPENS = {
    ".trace.json.gz": "https://ui.perfetto.dev or chrome://tracing",
    ".txt": "any editor",
    ".memory.pickle": "https://pytorch.org/memory_viz",
}


def profile(
    run: RunName,
    steps: Annotated[
        str,
        typer.Option(metavar="FIRST:LAST", help="Which steps, such as 100:110; they are to come."),
    ],
    rank: Annotated[
        list[int] | None, typer.Option(help="Whose; may be given several times (default: 0).")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Look at what they allocate, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Profile steps of a run while it trains, and wait for what was seen."""
    with user_errors():
        from launcher import home
        from launcher.profiling import ask, results, steps_in

        directory = home.find(run)
        wish = ask(directory, steps_in(steps), rank or [], memory)
        ranks = ", ".join(map(str, wish.ranks))
        typer.echo(
            f"profile {wish.number} of steps {wish.first:,} to {wish.last:,} is asked for, of rank "
            f"{ranks}; it comes whether you wait or not",
            err=as_json,
        )
        found, failed = [], False
        for seen in results(directory, wish):
            urls = [f"{directory.url}/{name}" for name in seen.names or []]
            failed = failed or seen.reason is not None
            first, last = seen.first, seen.step
            steps_of = {"rank": seen.rank, "first": first, "last": last}
            found.append({**steps_of, "files": urls, "reason": seen.reason})
            if as_json:
                continue
            typer.echo(f"rank {seen.rank}, steps {first} to {last}: {seen.reason or ''}".rstrip())
            for url in urls:
                opens = next(by for ending, by in OPENS.items() if url.endswith(ending))
                typer.echo(f"  {url}  (opens in {opens})")
        if as_json:
            typer.echo(json.dumps(found, indent=2))
    if failed:
        raise typer.Exit(1)
