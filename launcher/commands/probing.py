"""``swell doctor JOB --probe``: asks, has two small jobs look around, and keeps what they found."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress

import typer

from launcher import home
from launcher.commands.errors import fail
from launcher.doctor.checkup import Finding
from launcher.doctor.probe import Offer, Probing, offer, request
from launcher.doctor.probefindings import findings_of
from launcher.job.fitness import output_of
from launcher.job.job import Job, TargetName
from launcher.job.machines import LOCAL
from launcher.job.pool import Container
from launcher.job.prices import load_prices
from launcher.probed import JOBS, Probed, judged, network_of
from launcher.target import Target, opened
from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.usererror import Message

UNASKED = "SW2040"  # the message that nobody has agreed to what a probe costs
LEFT = "SW2041"  # the message about jobs of a probe that may go on


def probe(
    job: Job, target: TargetName, agreed: bool, say: Callable[[str], object]
) -> list[tuple[str, Finding]]:
    """Probes where a job would run, after its user has agreed. Returns what was found.

    Args:
        job: what is to run there.
        target: where.
        agreed: whether the user has agreed beforehand.
        say: called with each line about how far it is.

    Raises ApiError, LocalError and OSError, and ends the command when nobody agrees.
    """
    offered = offer(job, target, load_prices(home.folder()))
    _ask(offered, target, agreed, say)
    now = clock.now()
    probe_id = home.new_id("probe", now)
    folder = home.directory_for(probe_id, output_of(job, target), target)
    try:
        with opened(target, offered.job, probe_id) as place:
            probing = _run(offered, place, folder, probe_id, say)
            endpoint = LOCAL if target == "local" else place.api(offered.region).endpoint
    finally:
        _tidy(folder, probe_id, target)
    runtime = job.runtime(job.pools[0])
    blank = Probed(
        id=probe_id,
        at=now,
        by=home.whoami(),
        endpoint=endpoint,
        project=job.project or "",
        region=offered.region,
        network=network_of(job, endpoint),
        machine=offered.machine,
        image=runtime.image if isinstance(runtime, Container) else runtime.executor,
    )
    probed = judged(blank, probing.reports)
    say(f"kept in {probed.keep(home.folder(), probing.reports)}")
    return [*findings_of(job, probed, probing.failed)]


def _ask(offered: Offer, target: TargetName, agreed: bool, say: Callable[[str], object]) -> None:
    say(f"the probe is {offered}")
    if agreed or target == "local":
        return
    if not interactive():
        fail(f"--probe submits {offered}; agree with --yes", UNASKED)
    typer.confirm("Submit them?", abort=True, err=True)


def interactive() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _run(
    offered: Offer,
    place: Target,
    folder: RunDirectory,
    probe_id: str,
    say: Callable[[str], object],
) -> Probing:
    key = secrets.token_hex(32)
    probing = Probing(place, offered.region, folder, say)
    numbers = range(1, JOBS + 1)
    try:
        probing.run([request(offered, probe_id, n, folder.url, key) for n in numbers])
    finally:
        for name in probing.left:
            what = f"{name} has not ended, and costs until it does; its timeout is near"
            say(str(Message(LEFT, f"{what}: gcloud ai custom-jobs cancel {name}")))
    return probing


def _tidy(folder: RunDirectory, probe_id: str, target: TargetName) -> None:
    """Removes what the VMs have left: all of it is in the record."""
    with suppress(OSError):
        for name in folder.store.files():
            folder.store.delete_file(name)
    if target == "local":
        shutil.rmtree(home.local_folder(probe_id).parent, ignore_errors=True)
