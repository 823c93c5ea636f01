"""Commands that take a job file."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.errors import fail, user_errors, warn
from launcher.commands.options import (
    AsJson,
    Format,
    JobPath,
    Overrides,
    RunId,
    Target,
    TargetOption,
    Vm,
)
from launcher.run_states import FAILED, info_of

if TYPE_CHECKING:
    from launcher.job.job import Job, TargetName
    from launcher.probed import Probed


def launch(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="The job file, in YAML; or a script that torchrun could run."
        ),
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENT ...]", help="Of a script.", show_default=False),
    ] = None,
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
    pools: Annotated[
        list[str] | None,
        typer.Option(
            "--pools",
            metavar="N x MACHINE",
            help="The machines of a script, a pool each; by default two small ones.",
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Begin from a checkpoint, .../checkpoints/step-N; with #weights from its models "
            "alone, with #weights,optimizer from its optimizers, too, both at step 0. Or from "
            "weights: a .safetensors or .pt file, a Hugging Face folder as FOLDER#weights. Like "
            "--set checkpoint.start_from=URL.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="With --from weights: tensors of the file and their names in the model; * stands "
            "for anything, and nothing for what is not wanted, as 'module.*=*' or 'head.*='.",
        ),
    ] = None,
    fresh: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --from weights: what they lack, and begins as the program makes it.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="With --from: a setting of the optimizers that counts more than the "
            "checkpoint's, as lr=0.01. Like --set checkpoint.override.NAME=NUMBER.",
        ),
    ] = None,
    controller: Annotated[
        bool,
        typer.Option(
            "--controller",
            help="A small machine looks after the run, and this one need not. Like "
            "--set controller=true.",
        ),
    ] = False,
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
        from launcher.commands.foreground import launch_and_follow, launch_detached
        from launcher.job.barescript import is_bare_script
        from launcher.job.jobfile import read_job
        from launcher.target import load_job, load_script

        overrides = [*(overrides or []), *([f"local.vm={vm.value}"] if vm else [])]
        if start_from is not None:
            overrides.append(f"checkpoint.start_from={json.dumps(start_from)}")
        overrides += [f"checkpoint.override.{one}" for one in override or []]
        if rename:
            pairs = [one.partition("=") for one in rename]
            if wrong := next((old + equals for old, equals, _ in pairs if not equals), ""):
                fail(f"--rename {wrong}: has no new name; write OLD=NEW, or OLD= to leave it out")
            table = {old: new for old, _, new in pairs}
            overrides.append(f"checkpoint.rename={json.dumps(table)}")
        if fresh:
            overrides.append(f"checkpoint.fresh={json.dumps(fresh)}")
        if is_bare_script(job):
            overrides += ["controller=true"] if controller else []
            loaded = load_script(job, args or [], pools or [], overrides, target.value, warn)
        elif args or pools:
            what = f"{args[0]!r}" if args else "--pools"
            fail(f"{what}: is for a script; {job} says what is run, and on which machines")
        else:
            if controller and read_job(job, overrides, os.environ).job.controller is None:
                overrides.append("controller=true")
            loaded = load_job(job, overrides, target.value, warn=warn)
        _caution(loaded, target.value)
        if detach:
            draft = launch_detached(loaded, target.value, run_id)
            if as_json:
                typer.echo(json.dumps({"run": draft.run_id, "url": draft.directory.url}))
                return
            where = "with its controller" if loaded.controller else "in the background"
            typer.echo(f"run {draft.run_id} goes on {where}; follow it with:")
            for command in ("status {}", "logs {} --follow", "cancel {}"):
                typer.echo(f"  swell {command.format(draft.run_id)}")
            return
        state = launch_and_follow(loaded, target.value, run_id, as_json)
    raise typer.Exit(info_of(state).exit_code)


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
    units: Annotated[
        bool,
        typer.Option(
            "--units",
            help="Print instead how long workers would wait where units do not divide; it makes "
            "the job's task on this machine.",
        ),
    ] = False,
) -> None:
    """Print the CustomJob that launch would send, without sending it, and what it would cost."""
    with user_errors(offline=True):
        from launcher import home
        from launcher.job import customjob
        from launcher.plan import request_of
        from launcher.target import load_job
        from launcher.views import plan as plans

        format = format or (Format.table if sys.stdout.isatty() else Format.json)
        complete = format is Format.curl
        loaded = load_job(job, overrides or [], "vertex" if complete else "any", warn=warn)
        if run_id is not None:
            home.check_id(run_id)
        if units:
            _plan_units(job, loaded)
            return
        probes = _caution(loaded, "vertex")
        packed = None
        if loaded.code:
            from launcher.packing.pack import pack

            packed = pack(loaded.code)
        request = request_of(loaded, run_id or f"{loaded.name}-DATE-TIME-ID", packed)
        if format is Format.files:
            if packed is None:
                fail(f"{job}: sends no code; write code: FOLDER")
            text = plans.files(packed)
        elif format is Format.yaml:
            text = plans.as_yaml(request)
        elif format is Format.curl:
            text = plans.as_curl(request, loaded.project or "", loaded.regions[0])
        elif format is Format.table:
            from launcher.api.vertex import own_endpoint
            from launcher.job.prices import load_prices
            from launcher.sightings import read_sightings

            endpoints = map(own_endpoint, loaded.regions)
            seen = read_sightings(home.folder(), loaded.project or "", endpoints)
            text = plans.table(loaded, load_prices(home.folder()), packed, probes, seen)
        else:
            text = customjob.serialise(request)
        typer.echo(text, nl=False)


def _caution(job: Job, target: TargetName) -> dict[str, Probed | None]:
    """Warns of what a probe has found that will keep a run from going well. Returns the newest of
    each region."""
    from launcher import home
    from launcher.api.vertex import own_endpoint
    from launcher.job.machines import LOCAL
    from launcher.probed import cautions, newest

    places = {region: own_endpoint(region) for region in job.regions}
    if target == "local":
        places = {LOCAL: LOCAL}
    found = {it: newest(home.folder(), job, endpoint, it) for it, endpoint in places.items()}
    for probed in found.values():
        for caution in cautions(job, probed):
            warn(str(caution))
    return found


def _plan_units(path: str, job: Job) -> None:
    import subprocess

    from launcher.plan import ask_units
    from launcher.views import plan as plans

    if not job.task:
        fail(f"--units: {path} has no task; a program of your own says how its batch is cut")
    try:
        typer.echo(plans.units(job, ask_units(job)), nl=False)
    except subprocess.CalledProcessError as error:
        raise typer.Exit(error.returncode) from None


def doctor(
    job: JobPath,
    target: TargetOption = Target.local,
    overrides: Overrides = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Submit two small Spot jobs instead, which find out whether jobs reach each "
            "other, and what VMs are told there; says first what they cost at most, and asks.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --probe: agree to what it costs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether a job can run: credentials, bucket, image, quota; or what is needed here."""
    if yes and not probe:
        fail("--yes belongs to --probe")
    with user_errors():
        from launcher.doctor.checkup import examine
        from launcher.doctor.report import as_json as findings_as_json
        from launcher.doctor.report import print_findings
        from launcher.doctor.rounds import checks_of
        from launcher.target import load_job

        loaded = load_job(job, overrides or [], target.value, warn=warn)
        if probe:
            from launcher.commands import probing

            say = partial(typer.echo, err=True)
            findings = probing.probe(loaded, target.value, yes, say)
        else:
            findings = examine(checks_of(loaded, target.value))
        if as_json:
            typer.echo(json.dumps(findings_as_json(findings), indent=2))
        else:
            from launcher.views.output import Screen

            print_findings(Screen(), findings)
    if any(finding.verdict == "fail" for _, finding in findings):
        raise typer.Exit(FAILED)


def schema() -> None:
    """Print the JSON Schema of job files, by which an editor completes and checks them."""
    with user_errors():
        from launcher.job.json_schema import job_schema

        typer.echo(json.dumps(job_schema(), indent=2))
