"""The ``swell`` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import gc
import json
import os
import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.usererrors import CANCELLED, FAILED, LIMITED, OK, fail, seconds_in, user_errors

if TYPE_CHECKING:
    from launcher.vertex import Jobs

EXIT_CODES = {"succeeded": OK, "failed": FAILED, "cancelled": CANCELLED, "limited": LIMITED}

app = typer.Typer(
    name="swell",
    help="Distributed PyTorch training on Spot GPUs that goes on while machines come and go.",
    epilog="Exit codes: 0 succeeded, 1 failed, 2 bad input, 3 cancelled, 4 limit reached.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than all of --help may take
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Target(str, Enum):
    """Where a run runs."""

    local = "local"
    vertex = "vertex"


class State(str, Enum):
    """How a run is doing."""

    queued = "queued"
    running = "running"
    waiting = "waiting"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    limited = "limited"


class Vm(str, Enum):
    """What a VM of the local target is."""

    process = "process"
    netns = "netns"
    container = "container"


class Format(str, Enum):
    """How a plan is printed."""

    table = "table"
    json = "json"
    yaml = "yaml"
    curl = "curl"
    files = "files"


JobPath = Annotated[str, typer.Argument(metavar="JOB", help="The job file, in YAML.")]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's id, a unique beginning of it, or its run directory."
    ),
]
TargetOption = Annotated[
    Target, typer.Option(help="local: VMs emulated on this machine; vertex: Vertex AI.")
]
RunId = Annotated[str | None, typer.Option("--run-id", help="The run's id; else one is made.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Replace a field: --set pools.1.replicas=7."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


@app.command()
def launch(
    job: JobPath,
    target: TargetOption = Target.local,
    run_id: RunId = None,
    overrides: Overrides = None,
    vm: Annotated[
        Vm | None,
        typer.Option(
            help="What a local VM is: processes, or (as root) a network namespace with an address, "
            "a host name and a link of its own, or a container in one. Like --set local.vm=netns."
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Begin from a checkpoint, .../checkpoints/step-N; with #weights from the model "
            "alone. Like --set checkpoint.start_from=URL.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the run exists; it goes on.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the final status as JSON, the rest to stderr; "
            "with --detach the run's id and URL.",
        ),
    ] = False,
) -> None:
    """Start a run and see it through to its end."""
    with user_errors():
        from launcher import runs
        from launcher.foreground import launch_and_follow, launch_detached
        from launcher.job.jobfile import load_job

        overrides = [*(overrides or []), *([f"local.vm={vm.value}"] if vm else [])]
        if start_from is not None:
            overrides.append(f"checkpoint.start_from={json.dumps(start_from)}")
        loaded = load_job(job, overrides, target.value, warn=_warn)
        if detach:
            run_id = launch_detached(loaded, job, target.value, run_id, overrides)
            if as_json:
                url = runs.directory_url(run_id, loaded.output)
                typer.echo(json.dumps({"run": run_id, "url": url}))
                return
            typer.echo(f"run {run_id} goes on in the background; follow it with:")
            for command in (f"status {run_id}", f"logs {run_id} --follow", f"cancel {run_id}"):
                typer.echo(f"  swell {command}")
            return
        state = launch_and_follow(loaded, target.value, run_id, as_json)
    raise typer.Exit(EXIT_CODES.get(state, FAILED))


@app.command()
def attach(
    run: RunName,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the final status as JSON; the rest to stderr.")
    ] = False,
) -> None:
    """Go on with a run whose launch was stopped, and see it through to its end."""
    with user_errors():
        from launcher import runs
        from launcher.foreground import attach_and_follow

        state = attach_and_follow(runs.find(run), as_json)
    raise typer.Exit(EXIT_CODES.get(state, FAILED))


@app.command()
def plan(
    job: JobPath,
    run_id: RunId = None,
    overrides: Overrides = None,
    format: Annotated[
        Format | None,
        typer.Option(
            help="How to print it; by default a table on a terminal, else JSON. "
            "files: the code that is sent along."
        ),
    ] = None,
) -> None:
    """Print the CustomJob that launch would send, without sending it, and what it would cost."""
    with user_errors(offline=True):
        from launcher import plan as plans
        from launcher import runs
        from launcher.job import customjob
        from launcher.job.jobfile import load_job

        format = format or (Format.table if sys.stdout.isatty() else Format.json)
        complete = format is Format.curl
        loaded = load_job(job, overrides or [], "vertex" if complete else None, warn=_warn)
        if run_id is not None:
            runs.check_id(run_id)
        packed = None
        if loaded.code:
            from launcher.packing import pack

            packed = pack(loaded.code)
        request = plans.request_of(loaded, run_id or f"{loaded.name}-DATE-TIME-ID", packed)
        if format is Format.files:
            if packed is None:
                fail(f"{job}: sends no code; write code: FOLDER")
            text = plans.files(packed)
        elif format is Format.yaml:
            text = plans.as_yaml(request)
        elif format is Format.curl:
            text = plans.as_curl(request, loaded.project or "", loaded.regions[0])
        elif format is Format.table:
            from launcher.job.prices import load_prices

            text = plans.table(loaded, load_prices(runs.home()), packed)
        else:
            text = customjob.serialise(request)
        typer.echo(text, nl=False)


@app.command()
def doctor(
    job: JobPath,
    target: TargetOption = Target.local,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check whether a job can run: credentials, bucket, image, quota; or what is needed here."""
    with user_errors():
        from launcher.doctor.checkup import examine
        from launcher.doctor.report import as_json as findings_as_json
        from launcher.doctor.report import print_findings
        from launcher.doctor.rounds import checks_of
        from launcher.job.jobfile import load_job

        loaded = load_job(job, overrides or [], target.value, warn=_warn)
        findings = examine(checks_of(loaded, target.value))
        if as_json:
            typer.echo(json.dumps(findings_as_json(findings), indent=2))
        else:
            from rich.console import Console

            print_findings(Console(highlight=False), findings)
    if any(finding.verdict == "fail" for _, finding in findings):
        raise typer.Exit(FAILED)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, by which an editor completes and checks them."""
    with user_errors():
        from launcher.job.schema import job_schema

        typer.echo(json.dumps(job_schema(), indent=2))


@app.command()
def status(run: RunName, as_json: AsJson = False) -> None:
    """Show how a run is doing, or how it ended."""
    with user_errors():
        from launcher import runs
        from launcher.inquiry import ask_api
        from launcher.status import read_status

        found = runs.find(run)
        known = read_status(found)
        known["api"] = ask_api(found.run(), known["attempts"])
        if as_json:
            typer.echo(json.dumps(known, indent=2))
            return
        from rich.console import Console

        from launcher.summary import print_summary

        print_summary(Console(highlight=False), known, found.url, None)


@app.command(name="runs")
def list_runs(
    states: Annotated[
        list[State] | None,
        typer.Option("--state", metavar="STATE", help=f"Only {', '.join(State)} runs; repeatable."),
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

        apis = _apis(project, regions or [], job)
        from rich.console import Console

        from launcher import listing

        rows = listing.list_runs(
            apis,
            states=[state.value for state in states or []],
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
            listing.print_runs(Console(highlight=False), rows, bool(apis))
        elif states or target or name or since or regions or apis:
            typer.echo("There is no such run.")
        else:
            typer.echo("There are no runs yet; start one with: swell launch JOB")


@app.command()
def checkpoints(
    run: RunName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every shard and compare checksums.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write one to a single safetensors file."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="With --export: which one, else the newest valid one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List a run's checkpoints, verify them, or export one."""
    with user_errors():
        from pathlib import Path

        from rich.console import Console

        from launcher import runs
        from launcher.checkpoints import export_checkpoint, list_checkpoints, print_checkpoints

        found = runs.find(run)
        if export is not None:
            chosen = export_checkpoint(found, step, Path(export))
            typer.echo(f"the checkpoint of step {chosen} is in {export}")
            return
        if step is not None:
            fail("--step belongs to --export")
        rows = list_checkpoints(found, verify)
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        elif not rows:
            typer.echo("There is no checkpoint yet.")
        else:
            print_checkpoints(Console(highlight=False), rows)
    if any(row["valid"] is False for row in rows):
        raise typer.Exit(FAILED)


@app.command()
def logs(
    run: RunName,
    replica: Annotated[
        str | None, typer.Option(help="Only this replica's lines, for example workerpool1-0.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only lines of the last 10min, 2h, …")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, as it was logged.")
    ] = False,
) -> None:
    """Print what a run's replicas printed, with local times."""
    with user_errors():
        import time

        from launcher import runs
        from launcher.logs import open_log, print_logs, since_time

        start = None
        if since is not None:
            start = since_time(seconds_in("--since", since), time.time())
        print_logs(open_log(runs.find(run), replica, start, follow), follow, as_json)


@app.command()
def cancel(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Ids, unique beginnings of them, or run directories."
        ),
    ],
) -> None:
    """End runs, from any machine. What they have saved stays."""
    with user_errors():
        from launcher import runs
        from launcher.cancellation import cancel_runs

        # All are found before the first is ended: a slip in one name ends none.
        found = [runs.find(name) for name in dict.fromkeys(names)]
        failed = False
        for said, ended in cancel_runs(found):
            typer.echo(said if ended else f"swell: {said}", err=not ended)
            failed = failed or not ended
    if failed:
        raise typer.Exit(FAILED)


@app.command()
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
            fail("choose one of --notice, --silent and --restore")
        from launcher import runs
        from launcher.foreground import local_replicas

        if notice is not None:
            seconds_in("--notice", notice)
        replicas = local_replicas(runs.find(run), replica)
        if restore:
            replicas.restore(replica)
            typer.echo(f"{replica} is given back")
        else:
            replicas.preempt(replica, None if silent else notice or "5s")
            how = "without notice" if silent else f"with {notice or '5s'} notice"
            typer.echo(f"{replica} is taken away {how}")


images = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(images, name="image", help="Look at images that replicas run.")


@images.callback()
def _images() -> None:
    """Makes ``image`` a group although it has one command."""


@images.command(name="check")
def check_image(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image on this machine.")],
    as_json: AsJson = False,
) -> None:
    """Run an image here, without a network, and say whether it can be a replica."""
    with user_errors(offline=True):
        from dataclasses import asdict

        from launcher import image as images

        findings = images.check_image(image)
        if as_json:
            typer.echo(json.dumps([asdict(found) for found in findings], indent=2))
        else:
            for found in findings:
                typer.echo(f"{'ok     ' if found.ok else 'problem'}  {found.what}: {found.detail}")
    if not all(found.ok for found in findings):
        raise typer.Exit(FAILED)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def emulator(context: typer.Context) -> None:
    """Serve the Vertex AI API on this machine (--port N --state DIR)."""
    from launcher.emulator.__main__ import main as serve

    raise typer.Exit(serve(context.args))


def main() -> None:
    """The entry point of ``swell``."""
    # What is imported stays: looking through it for garbage takes a tenth of a short command.
    gc.set_threshold(100_000, 50, 100)
    # Else pydantic looks through all installed packages for plugins of its own, on every start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    app()


def _warn(line: str) -> None:
    typer.echo(f"swell: warning: {line}", err=True)


def _apis(project: str | None, regions: list[str], job: str | None) -> list[Jobs]:
    """Returns the APIs that options of ``swell runs`` name."""
    if job is not None:
        from launcher.job.jobfile import load_job

        loaded = load_job(job, [])
        project, regions = project or loaded.project, regions or loaded.regions
        if not project or not regions:
            fail(f"{job}: has no project and regions; give --project and --region")
    if project and not regions:
        fail("--project needs --region: jobs are kept by region")
    if not project:
        return []
    from launcher.retry import BRIEF, Retries
    from launcher.vertex import Jobs

    retries = Retries(BRIEF)
    return [Jobs(project, region, retries=retries) for region in dict.fromkeys(regions)]


if __name__ == "__main__":
    main()
