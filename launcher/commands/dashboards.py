"""The command that shows runs in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.errors import fail, user_errors
from launcher.commands.interrupts import handled_here, leave
from launcher.commands.runs import apis_of
from launcher.run_states import OK

if TYPE_CHECKING:
    from launcher.dashboard.server import Dashboard
    from trainer.rundir.directory import RunDirectory


def dashboard(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR|URL]",
            help="A folder of run directories, also of a bucket (default: the runs that this "
            "machine knows).",
            show_default=False,
        ),
    ] = None,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the runs that Vertex AI has there.")
    ] = None,
    regions: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="REGION", help="With --project, where to ask."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 for any free one.")
    ] = 0,
) -> None:
    """Show runs in a browser on this machine, as they go on; Ctrl-C leaves them as they are."""
    if regions and not project:
        fail("--region belongs to --project")
    with user_errors():
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            fail(
                f"the dashboard cannot be served ({error}); pip install 'swell[dashboard]' "
                "installs what it needs",
                "SW6296",
            )
        import asyncio
        import sys
        from pathlib import Path

        from launcher.commands.foreground import local_replica
        from launcher.dashboard.acts import Acts
        from launcher.dashboard.place import Place
        from launcher.dashboard.planning import Planner
        from launcher.dashboard.server import Dashboard
        from launcher.report.charts import require_plots
        from launcher.supervision.cancel import cancel_run

        require_plots()
        sys.setswitchinterval(0.001)  # what is read and drawn is not to hold up answers

        def preempt(directory: RunDirectory, replica: str, notice: str | None) -> str:
            vms, name = local_replica(directory, replica)
            vms.preempt(name, notice)
            how = f"with {notice} notice" if notice else "without notice"
            return f"{replica} is taken away {how}"

        place = Place(where, apis_of(project, regions or [], None))
        made = Dashboard(place, Acts(cancel_run, preempt), Planner(Path.cwd()))
        with handled_here():
            asyncio.run(_serve(made, port))
    leave(OK)  # what is being read or drawn may take long


async def _serve(made: Dashboard, port: int) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    import asyncio
    import signal

    from launcher.emulator.listener import Listener

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        listener = Listener(made.app, "127.0.0.1", port, for_pages=True)
    except OSError as error:
        fail(f"cannot listen on 127.0.0.1:{port} ({error}); choose another --port", "SW6290")
    listener.start()
    typer.echo(f"http://{listener.authority}{made.path}")
    typer.echo(
        "swell: open this address in a browser on this machine; whoever has it may cancel runs. "
        "Ctrl-C ends the dashboard, and no run",
        err=True,
    )
    await stop.wait()
    made.close()
    await listener.stop()
