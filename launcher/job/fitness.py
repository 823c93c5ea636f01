"""What a target needs of a job, and what may surprise whoever runs it there: purely.

Whether this machine can be the local target at all is ``launcher.target``'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.job import mounts
from launcher.job.controller import DEFAULT_IMAGE as CONTROLLER_IMAGE
from launcher.job.controller import LEAST_ON_VERTEX, Controller
from launcher.job.durations import format_duration
from launcher.job.job import Job, TargetName
from launcher.job.marketfile import whole_market
from launcher.job.pool import DEFAULT_IMAGE, Package, swells_own
from launcher.job.problem import (
    ABSENT,
    DEPENDS,
    MISSING,
    NO_EFFECT,
    NOT_SENT,
    RANGE,
    RESERVED,
    Problem,
)

NO_BUCKET = "SW1115"  # the message about a place that is not at gs:// and must be
LOCAL_BUCKET = "gs://swell-local"  # for local runs that name no place and need a bucket


def output_of(job: Job, target: TargetName) -> str | None:
    """Where run directories are made: containers reach nothing of this machine but its buckets."""
    if job.output is None and target == "local" and job.local.vm == "container":
        return LOCAL_BUCKET
    return job.output


def misfits(job: Job, target: TargetName) -> list[Problem]:
    """Returns what in ``job`` keeps it from running on ``target``."""
    found = _locally(job) if target == "local" else _on_vertex(job)
    return [*found, *_buckets_of_no_use(job)]


def warnings(job: Job) -> list[Problem]:
    """Returns what may well be meant, but may surprise."""
    return [*_mixed_gpus(job), *_restarts(job), *_unreachable_mounts(job)]


def _locally(job: Job) -> Iterator[Problem]:
    if job.local.vm == "container":
        yield from _in_containers(job)
    else:
        yield from absent(job)
    if job.local.vm == "process" and whole_market(job.local.market).isolated:
        what = "needs VMs that have networks; write local: {vm: netns}, or remove it"
        yield ("local", "market", "isolated"), DEPENDS, what
    yield from _hidden_packages(job)
    yield from mounts.named(job)


def _hidden_packages(job: Job) -> Iterator[Problem]:
    """VMs on this machine see Swell's own packages before those that they install."""
    for index, pool in enumerate(job.pools):
        runtime = job.runtime(pool)
        if not isinstance(runtime, Package) or runtime.starts_agent:
            continue
        if top := swells_own(runtime.module or ""):
            at = ("pools", index) if pool.package else ()
            yield (
                (*at, "package", "module"),
                RESERVED,
                f"is in {top}, which on this machine is Swell's own package; "
                "give yours another name, or run it on Vertex AI",
            )


def absent(job: Job) -> Iterator[Problem]:
    """Yields what a job names of this machine's, and is not there."""
    missing = list(job.code.missing()) if job.code else []
    yield from ((("code", field), ABSENT, what) for field, what in missing)
    for field, file in job.files():
        if not missing and not Path(file).is_file():
            yield (field,), ABSENT, f"there is no file {file}; name one that exists"


def _in_containers(job: Job) -> Iterator[Problem]:
    """Containers have the files of their image, and what is at gs://."""
    yield from absent(job) if job.code else _files_of_the_image(job)
    if job.output is not None and not job.output.startswith("gs://"):
        yield (
            ("output",),
            NO_BUCKET,
            "is on this machine's disk, which containers do not see; write gs://BUCKET/FOLDER, "
            "a local bucket here, or remove it",
        )
    for index, pool in enumerate(job.pools):
        if isinstance(job.runtime(pool), Package):
            at = ("pools", index) if pool.package else ()
            what = "is not installed in container VMs; write a container, or netns"
            yield (*at, "package"), "SW1119", what


def _on_vertex(job: Job) -> Iterator[Problem]:
    yield from absent(job) if job.code else _files_of_the_image(job)
    if not job.project:
        yield ("project",), MISSING, "is missing; Vertex AI needs your Google Cloud project"
    yield from without_network(job)
    if not job.regions:
        yield ("regions",), MISSING, "is missing; write for example [us-central1]"
    if not (job.output or "").startswith("gs://"):
        yield ("output",), MISSING, "is missing; write a regional bucket's gs://BUCKET/FOLDER"
    for region, bucket in job.checkpoint.buckets.items():
        if not bucket.startswith("gs://"):
            at = ("checkpoint", "buckets", region)
            yield at, NO_BUCKET, "is no bucket; write gs://BUCKET/FOLDER"
    yield from _controller_on_vertex(job.controller) if job.controller else ()
    yield from dict.fromkeys(_runtimes_on_vertex(job))  # pools that share the job's share a problem


def _controller_on_vertex(controller: Controller) -> Iterator[Problem]:
    if controller.image == CONTROLLER_IMAGE:
        what = "is missing; write where your controller image was pushed"
        yield ("controller", "image"), MISSING, what
    if controller.timeout is not None and controller.timeout < LEAST_ON_VERTEX:
        what = f"is too short on Vertex AI; write at least {format_duration(LEAST_ON_VERTEX)}"
        yield ("controller", "timeout"), RANGE, what


def without_network(job: Job) -> Iterator[Problem]:
    """Two CustomJobs reach each other in a network of the user's, if at all."""
    if not job.is_fleet:
        return
    ways = [job, *(job.variant(it) for it in job.fallback)]
    machines = [pool.machine_type for way in ways for pool in way.pools]
    apart = next((it.name for it in machines if not it.accelerator.peers), None)
    if job.network and apart:
        what = f"does not go with {apart}, for which Vertex AI peers with no network"
        yield ("network",), "SW1121", f"{what}; write psc_interface instead, with an attachment"
    elif not job.network and not job.psc_interface:
        what = f"is {job.fleet.jobs}, and two jobs reach each other only in a network of yours"
        also = "" if apart else ", or network"
        yield ("fleet",), "SW1121", f"{what}; add psc_interface, with an attachment{also}"


def _buckets_of_no_use(job: Job) -> Iterator[Problem]:
    regions = {*job.regions, *(region for it in job.fallback for region in it.regions or [])}
    for region in job.checkpoint.buckets:
        if region not in regions:
            at = ("checkpoint", "buckets", region)
            yield at, NO_EFFECT, "is no region of the job's; add it to regions, or remove it here"


def _files_of_the_image(job: Job) -> Iterator[Problem]:
    for field, _ in job.files():
        yield (field,), NOT_SENT, "is a local file; write code: FOLDER, which sends it along"


def _runtimes_on_vertex(job: Job) -> Iterator[Problem]:
    for index, pool in enumerate(job.pools):
        at = ("pools", index) if pool.container or pool.package else ()
        runtime = job.runtime(pool)
        if isinstance(runtime, Package):
            if not all(uri.startswith("gs://") for uri in runtime.uris):
                what = "has one that is not gs://; Vertex AI installs from a bucket"
                yield (*at, "package", "uris"), NO_BUCKET, what
        elif runtime.image == DEFAULT_IMAGE:
            what = "is missing; write where your trainer image was pushed"
            yield (*at, "container", "image"), MISSING, what


def _mixed_gpus(job: Job) -> Iterator[Problem]:
    gpus = list(dict.fromkeys(pool.machine_type.accelerator.name for pool in job.pools))
    if len(gpus) > 1:
        what = f"mix {' and '.join(gpus)}; one zone of each region must have them all"
        yield ("pools",), "SW1190", what


def _restarts(job: Job) -> Iterator[Problem]:
    if job.scheduling.restart_job_on_worker_restart and job.slots:
        yield (
            ("scheduling", "restart_job_on_worker_restart"),
            "SW1191",
            "starts the whole job again when one replica restarts, which an elastic run need not; "
            "remove it",
        )


def _unreachable_mounts(job: Job) -> Iterator[Problem]:
    for index, pool in enumerate(job.pools):
        if pool.nfs and not (job.network or job.psc_interface):
            what = "needs a route; add network or psc_interface"
            yield ("pools", index, "nfs"), "SW1192", what
