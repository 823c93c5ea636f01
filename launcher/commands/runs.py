"""Commands that look at runs, and those that change them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.errors import fail, seconds_in, user_errors, warn
from launcher.commands.options import AsJson, RunName, Target, other_run_ids
from launcher.run_states import FAILED, STATES, info_of

if TYPE_CHECKING:
    from launcher.api.vertex import Jobs


def attach(
    run: RunName,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the final status as JSON; the rest to stderr.")
    ] = False,
) -> None:
    """Go on with a run whose launch was stopped, and see it through to its end."""
    with user_errors():
        from launcher import home
        from launcher.commands.foreground import attach_and_follow

        state = attach_and_follow(home.find(run), as_json)
    raise typer.Exit(info_of(state).exit_code)


def status(run: RunName, as_json: AsJson = False) -> None:
    """Show how a run is doing, or how it ended."""
    with user_errors():
        from launcher import home
        from launcher.status.api import ask_api
        from launcher.status.machines import newest_machines
        from launcher.status.status import read_status

        found = home.find(run)
        launched = home.read_run(found)
        known = read_status(found, run=launched)
        known["apis"] = ask_api(launched, known["attempts"])
        known["api"] = known["apis"][-1] if known["apis"] else None
        known["machines"] = newest_machines(found)
        if as_json:
            typer.echo(json.dumps(known, indent=2))
            return
        from launcher.views.output import Screen
        from launcher.views.summary import print_summary

        print_summary(Screen(), known, found.url, None)


def _state(text: str) -> str:
    if text not in STATES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(STATES)}.")
    return text


def list_runs(
    states: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            parser=_state,
            help=f"Only {', '.join(STATES)} runs; repeatable.",
        ),
    ] = None,
    target: Annotated[Target | None, typer.Option(help="Only runs on this target.")] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only runs whose id begins so; * and ? stand for any."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only runs of the last 2h, 3d, …")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="N", min=1, help="Only the newest so many."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="Also list what Vertex AI has there.")
    ] = None,
    regions: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="REGION",
            help="Only runs whose last CustomJob is there; with --project, where to ask.",
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", help="Take project and regions from a job file."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print ids only, one per line.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest last: those of this machine, and those in a project."""
    with user_errors():
        import time

        apis = apis_of(project, regions or [], job)
        from launcher.views import runs as listing
        from launcher.views.output import Screen

        rows = listing.list_runs(
            apis,
            states=states or [],
            target=target.value if target else None,
            name=name,
            regions=[] if apis else regions or [],
            since=None if since is None else time.time() - seconds_in("--since", since),
            limit=limit,
            report=lambda problem: typer.echo(f"swell: {problem}", err=True),
        )
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        elif quiet:
            for row in rows:
                typer.echo(row["run"])
        elif rows:
            listing.print_runs(Screen(), rows, bool(apis))
        elif states or target or name or since or regions or apis:
            typer.echo("No run is like that; without options, swell runs lists all.")
        else:
            typer.echo("There are no runs yet; start one with: swell launch JOB")


def checkpoints(
    run: RunName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every shard and compare checksums.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER/",
            help="Write one to a single safetensors file; or, with a slash at the end, that of a "
            "fine-tuned model to a Hugging Face folder.",
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="With --export: which one, else the newest valid one.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --export: this part of the state alone, under its own names, as model.",
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also look into the buckets for checkpoints of this job file."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List a run's checkpoints, verify them, or export one."""
    with user_errors():
        from pathlib import Path

        from launcher import home
        from launcher.views.checkpoints import (
            export_checkpoint,
            export_folder,
            list_checkpoints,
            print_checkpoints,
        )
        from launcher.views.output import Screen

        found, buckets = home.find(run), []
        if job is not None:
            from launcher.target import load_job

            buckets = list(load_job(job, []).checkpoint.buckets.values())
        if export is not None:
            whole = export.endswith("/") or Path(export).is_dir()
            write = export_folder if whole else export_checkpoint
            chosen = write(found, step, Path(export), buckets, part)
            typer.echo(f"the checkpoint of step {chosen} is in {export}")
            return
        if step is not None or part is not None:
            fail(f"--{'part' if step is None else 'step'} belongs to --export")
        rows = list_checkpoints(found, verify, buckets, warn)
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        elif not rows:
            typer.echo("There is no checkpoint yet.")
        else:
            print_checkpoints(Screen(), rows)
    if any(row["valid"] is False for row in rows):
        raise typer.Exit(FAILED)


def logs(
    run: RunName,
    replica: Annotated[
        str | None, typer.Option(help="Only this replica's lines, for example workerpool1-0.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only lines of the last 10min, 2h, …")
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(help="Only lines that are at least so bad: info, warning, error, …"),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only lines in which this regular expression is."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, as it was logged.")
    ] = False,
) -> None:
    """Print what a run's replicas printed, with local times."""
    with user_errors():
        import time

        from launcher import home
        from launcher.logs.reader import open_log, print_logs, since_time
        from launcher.logs.selection import Selection
        from trainer.rundir.usererror import Unusable

        try:
            selection = Selection.of(level, grep)
        except Unusable as error:
            fail(str(error), error.id)
        start = None
        if since is not None:
            start = since_time(seconds_in("--since", since), time.time())
        log = open_log(home.find(run), replica, start, follow)
        print_logs(log, follow, as_json, selection)


def cancel(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Ids, unique beginnings of them, or run directories.",
            autocompletion=other_run_ids,
        ),
    ],
) -> None:
    """End runs, from any machine. What they have saved stays."""
    with user_errors():
        from launcher import home
        from launcher.supervision.cancel import cancel_runs
        from launcher.terminal import visible
        from launcher.views.outlet import Outlet

        # All are found before the first is ended: a slip in one name ends none.
        found = [home.find(name) for name in dict.fromkeys(names)]
        for one in found:
            home.require_answer(one)
        failed = False
        out, errors = Outlet(sys.stdout), Outlet(sys.stderr)  # nobody need read to the end
        for said, ended in cancel_runs(found):
            line = visible(said if ended else f"swell: {said}")
            print(line, file=out if ended else errors)
            failed = failed or not ended
        out.drain()
        errors.drain()
    if failed:
        raise typer.Exit(FAILED)


def preempt(
    run: RunName,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="For example workerpool1-0.")],
    notice: Annotated[
        str | None, typer.Option(help="How long before it is taken away (default 5s).")
    ] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Without notice: it vanishes.")] = False,
    restore: Annotated[bool, typer.Option("--restore", help="Give it back instead.")] = False,
) -> None:
    """Take a VM away from a local run, as the Spot market does, or give it back."""
    with user_errors():
        if (notice is not None) + silent + restore > 1:
            fail("--notice, --silent and --restore exclude each other; write one")
        from launcher import home
        from launcher.commands.foreground import local_replica

        if notice is not None:
            seconds_in("--notice", notice)
        replicas, name = local_replica(home.find(run), replica)
        if restore:
            replicas.restore(name)
            typer.echo(f"{replica} is given back")
        else:
            replicas.preempt(name, None if silent else notice or "5s")
            how = "without notice" if silent else f"with {notice or '5s'} notice"
            typer.echo(
                f"{replica} is taken away {how}; "
                f"swell preempt {run} {replica} --restore gives it back"
            )


def apis_of(project: str | None, regions: list[str], job: str | None) -> list[Jobs]:
    """Returns the APIs that options of ``swell runs`` name."""
    if job is not None:
        from launcher.target import load_job

        loaded = load_job(job, [])
        project, regions = project or loaded.project, regions or loaded.regions
        if not project or not regions:
            fail(f"{job}: has no project and regions; give --project and --region")
    if project and not regions:
        fail("--project needs --region: jobs are kept by region")
    if not project:
        return []
    from launcher.api.retry import BRIEF, Retries
    from launcher.api.vertex import Jobs

    retries = Retries(BRIEF)
    return [Jobs(project, region, retries=retries) for region in dict.fromkeys(regions)]
