"""The command that answers Prometheus about a run."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from launcher.commands.errors import user_errors
from launcher.commands.options import RunName


def metrics(
    run: RunName,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to answer at; 0 for any.")
    ] = 9464,
    address: Annotated[
        str, typer.Option(help="Where to listen; this machine alone reaches 127.0.0.1.")
    ] = "127.0.0.1",
) -> None:
    """Answer Prometheus about a run, from its directory alone, until Ctrl-C."""
    with user_errors():
        from launcher import home
        from launcher.status.exposition import Exposition
        from launcher.status.status import read_status
        from trainer.rundir.usererror import Unusable
        from trainer.telemetry.gauges import Endpoint

        found = home.find(run)
        run_id = str(home.read_run(found)["id"])
        try:
            endpoint = Endpoint(Exposition(run_id, lambda: read_status(found)), address, port)
        except ImportError:
            raise Unusable(
                "SW6244", "prometheus_client is not installed: pip install 'swell[metrics]'"
            ) from None
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise Unusable(
                "SW6245", f"{address}:{port} cannot be listened at: {why}; choose another --port"
            ) from None
        typer.echo(f"swell: run {run_id} at http://{address}:{endpoint.port}/metrics", err=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            endpoint.close()
