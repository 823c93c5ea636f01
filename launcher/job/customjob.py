"""Turns a job and an attempt into Vertex AI's CustomJob request, purely.

What ``swell plan`` prints is what ``swell launch`` sends: both come from here, and one
function, ``serialise``, makes the text. The result is the REST API's JSON, with 64-bit
integers as texts. What the job does not say is left to the API's defaults.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from launcher.job.job import Job
from launcher.job.machines import LOCAL
from launcher.job.pool import AGENT_MODULE, Container, Package, Pool, Reservation
from trainer.rundir.names import (
    ENV_ATTEMPT,
    ENV_CHECKPOINTS,
    ENV_RUN_DIR,
    ENV_RUN_ID,
    ENV_SLOTS,
    ENV_TOKEN,
    ENV_TOKEN_SECRET,
)

CustomJob = dict[str, Any]

RUN_LABEL = "swell-run"
ATTEMPT_LABEL = "swell-attempt"
CONTROLLER_LABEL = "swell-controller"
REDACTED = "(secret)"


def build(
    job: Job,
    *,
    run_id: str,
    run_dir: str,
    token: str,
    attempt: int,
    region: str | None = None,
    code: str = "",
    checkpoints: Sequence[str] = (),
) -> CustomJob:
    """Returns the CustomJob to send for one attempt of a run.

    Args:
        job: what the user wants.
        run_id: the run's name; also the CustomJob's display name and a label of it.
        run_dir: URL of the run directory; also the CustomJob's base output directory.
        token: the run's secret, by which its agents know each other; the name of its version
            in Secret Manager if that delivers it.
        attempt: number of this attempt, from 1.
        region: where it is sent; by default the job's first.
        code: URL of the user's code as a Python package, for pools that install it.
        checkpoints: URLs of the directories that have the run's checkpoints; new ones are written
            to the first. Without any, the run directory.
    """
    env = {
        ENV_RUN_DIR: run_dir.replace("$", "$$"),  # a value's $(NAME) would be expanded
        ENV_RUN_ID: run_id,
        ENV_ATTEMPT: str(attempt),
    }
    if len(checkpoints) > 1:
        env[ENV_CHECKPOINTS] = json.dumps(list(checkpoints)).replace("$", "$$")
    request: CustomJob = {
        "displayName": run_id,
        "labels": {**job.labels, RUN_LABEL: run_id, ATTEMPT_LABEL: str(attempt)},
    }
    if job.encryption_key:
        request["encryptionSpec"] = {"kmsKeyName": job.encryption_key}
    spec: dict[str, Any] = {
        "workerPoolSpecs": [_worker_pool(job, pool, env, token, code) for pool in job.pools],
        "scheduling": _scheduling(job),
        "baseOutputDirectory": {"outputUriPrefix": run_dir},
    }
    if job.service_account:
        spec["serviceAccount"] = job.service_account
    spec.update(network_of(job))
    if job.tensorboard:
        spec["tensorboard"] = job.tensorboard
    if job.experiment:
        place = f"projects/{job.project or LOCAL}/locations/{region or _first_region(job)}"
        context = f"{place}/metadataStores/default/contexts/{job.experiment.name}"
        spec["experiment"] = context
        if job.experiment.run:
            spec["experimentRun"] = f"{context}-{job.experiment.run}"
    if job.web_access:
        spec["enableWebAccess"] = True
    if job.dashboard_access:
        spec["enableDashboardAccess"] = True
    request["jobSpec"] = spec
    return request


def serialise(request: CustomJob) -> str:
    """Returns the one text of ``request``: JSON that ends with a newline."""
    return json.dumps(request, indent=2, ensure_ascii=False) + "\n"


def redacted(request: CustomJob) -> CustomJob:
    """Returns a copy of ``request`` that may be shown: without the run's token."""
    shown = copy.deepcopy(request)
    for variable in _variables(shown):
        if variable["name"] == ENV_TOKEN:
            variable["value"] = REDACTED
    return shown


def _variables(request: CustomJob) -> Iterator[dict[str, str]]:
    for pool in request["jobSpec"]["workerPoolSpecs"]:
        yield from (pool.get("containerSpec") or pool["pythonPackageSpec"])["env"]


def _first_region(job: Job) -> str:
    return job.regions[0] if job.regions else LOCAL


def _worker_pool(
    job: Job, pool: Pool, common: dict[str, str], token: str, code: str
) -> dict[str, Any]:
    machine = pool.machine_type
    own = dict(common)
    if job.starts_agent(pool):  # nobody else needs the secret
        own[ENV_TOKEN_SECRET if job.token_secret else ENV_TOKEN] = token
        if pool.slots is not None:
            own[ENV_SLOTS] = str(pool.slots)
    env = [{"name": name, "value": value} for name, value in {**job.env, **pool.env, **own}.items()]
    spec: dict[str, Any] = {
        "machineSpec": {
            "machineType": machine.name,
            "acceleratorType": machine.accelerator.name,
            "acceleratorCount": machine.gpus,
        },
        "replicaCount": str(pool.replicas),
    }
    if pool.reservation:
        spec["machineSpec"]["reservationAffinity"] = _reservation(pool.reservation)
    if pool.nfs:
        spec["nfsMounts"] = [
            {"server": mount.server, "path": mount.path, "mountPoint": mount.mount_point}
            for mount in pool.nfs
        ]
    if pool.disk:
        disk = {"bootDiskType": pool.disk.type} if pool.disk.type else {}
        size = {"bootDiskSizeGb": int(pool.disk.size.gib)} if pool.disk.size else {}
        spec["diskSpec"] = {**disk, **size}
    runtime = job.runtime(pool)
    if isinstance(runtime, Container):
        spec["containerSpec"] = _container(runtime, env)
    else:
        packed = [code] if job.takes_code_as_package(pool) else []
        spec["pythonPackageSpec"] = _package(runtime, packed, env)
    return spec


def _container(container: Container, env: list[dict[str, str]]) -> dict[str, Any]:
    spec: dict[str, Any] = {"imageUri": container.image}
    if container.command:
        spec["command"] = list(container.command)
    if container.args:
        spec["args"] = list(container.args)
    return {**spec, "env": env}


def _package(package: Package, code: list[str], env: list[dict[str, str]]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "executorImageUri": package.executor,
        "packageUris": [*package.uris, *code],
        "pythonModule": package.module or AGENT_MODULE,
    }
    if package.args:
        spec["args"] = list(package.args)
    return {**spec, "env": env}


def _reservation(reservation: Reservation) -> dict[str, Any]:
    kind = {"none": "NO_RESERVATION", "any": "ANY_RESERVATION", "specific": "SPECIFIC_RESERVATION"}
    affinity: dict[str, Any] = {"reservationAffinityType": kind[reservation.affinity]}
    if reservation.name:
        affinity["key"] = "compute.googleapis.com/reservation-name"
        affinity["values"] = [reservation.name]
    return affinity


def _scheduling(job: Job) -> dict[str, Any]:
    asked = job.scheduling
    # By default replicas come and go one by one: the run re-forms around them by itself.
    spec: dict[str, Any] = {
        "strategy": asked.strategy.upper(),
        "restartJobOnWorkerRestart": asked.restart_job_on_worker_restart,
    }
    if job.timeout is not None:
        spec["timeout"] = duration_text(job.timeout)
    if asked.disable_retries:
        spec["disableRetries"] = True
    if asked.max_wait_duration is not None:
        spec["maxWaitDuration"] = duration_text(asked.max_wait_duration)
    return spec


def duration_text(duration: timedelta) -> str:
    """Returns the duration as protobuf's JSON writes it: with 0, 3 or 6 decimals."""
    seconds, micros = divmod(duration // timedelta(microseconds=1), 10**6)
    if micros % 1000:
        return f"{seconds}.{micros:06d}s"
    return f"{seconds}.{micros // 1000:03d}s" if micros else f"{seconds}s"


def network_of(job: Job) -> dict[str, Any]:
    """Returns the fields of a jobSpec that say in which network its VMs are."""
    spec: dict[str, Any] = {}
    if job.network:
        spec["network"] = job.network
    if job.reserved_ip_ranges:
        spec["reservedIpRanges"] = list(job.reserved_ip_ranges)
    if job.psc_interface:
        spec["pscInterfaceConfig"] = {"networkAttachment": job.psc_interface.attachment}
        if job.psc_interface.dns_peerings:
            spec["pscInterfaceConfig"]["dnsPeeringConfigs"] = [
                {
                    "domain": peering.domain,
                    "targetProject": peering.project,
                    "targetNetwork": peering.network,
                }
                for peering in job.psc_interface.dns_peerings
            ]
    return spec
