"""The command that makes a page of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher.commands.errors import fail, user_errors
from launcher.commands.options import RunName


def report(
    run: RunName,
    to: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to (default: RUN.html)."),
    ] = None,
) -> None:
    """Make one HTML page of a run, with pictures, that opens without a network."""
    with user_errors():
        import gc
        import time
        from pathlib import Path

        from launcher import home
        from launcher.report.charts import require_plots
        from launcher.report.report import html, is_free, read, write

        require_plots()  # before anything is read, which may take long
        found = home.find(run)
        path = Path(to or f"{home.read_run(found)['id']}.html")
        if not is_free(path):
            fail(
                f"{path}: is there already, and no report of Swell's; name another by -o", "SW6224"
            )
        gc.disable()  # a sixth of the time; what is read stays until this process ends
        known = read(found, time.time())
        write(path, html(known))
        typer.echo(f"the report is in {path}")
