"""The command that has a run that trains profile some of its steps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.errors import user_errors
from launcher.commands.options import AsJson, RunName

if TYPE_CHECKING:
    from launcher.records import EventRecord

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
        try:
            for seen in results(directory, wish):
                urls = [f"{directory.url}/{name}" for name in seen.names or []]
                failed = failed or seen.reason is not None
                steps_of = {"rank": seen.rank, "first": seen.first, "last": seen.step}
                found.append({**steps_of, "files": urls, "reason": seen.reason})
                if not as_json:
                    _print(seen, urls)
        finally:
            if as_json and found:
                typer.echo(json.dumps(found, indent=2))
    if failed:
        raise typer.Exit(1)


def _print(seen: EventRecord, urls: list[str]) -> None:
    """What one rank has seen; of a file of a newer image nobody here knows what opens it."""
    told = f"rank {seen.rank}, steps {seen.first} to {seen.step}: {seen.reason or ''}"
    typer.echo(told.rstrip())
    for url in urls:
        opens = next((f"  (opens in {by})" for it, by in OPENS.items() if url.endswith(it)), "")
        typer.echo(f"  {url}{opens}")
