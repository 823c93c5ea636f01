"""Turns a job and an attempt into Vertex AI's CustomJob request, purely.

What ``swell plan`` prints is what ``swell launch`` sends: both come from here. The result
is the REST API's JSON, with 64-bit integers as texts.
"""

from __future__ import annotations

import copy
from typing import Any

from launcher.spec import Job, Pool
from trainer.rundir import ENV_ATTEMPT, ENV_RUN_DIR, ENV_RUN_ID, ENV_SLOTS, ENV_TOKEN

CustomJob = dict[str, Any]

BOOT_DISK = {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 100}
RUN_LABEL = "swell-run"
ATTEMPT_LABEL = "swell-attempt"
REDACTED = "(secret)"


def build(job: Job, *, run_id: str, run_dir: str, token: str, attempt: int) -> CustomJob:
    """Returns the CustomJob to send for one attempt of a run.

    Args:
        job: what the user wants.
        run_id: the run's name; also the CustomJob's display name and a label of it.
        run_dir: URL of the run directory; also the CustomJob's base output directory.
        token: the run's secret, by which its agents know each other.
        attempt: number of this attempt, from 1.
    """
    env = {
        ENV_RUN_DIR: run_dir.replace("$", "$$"),  # a value's $(NAME) would be expanded
        ENV_RUN_ID: run_id,
        ENV_TOKEN: token,
        ENV_ATTEMPT: str(attempt),
    }
    # Spot machines come and go one by one; the run re-forms around them by itself.
    scheduling: dict[str, Any] = {"strategy": "SPOT", "restartJobOnWorkerRestart": False}
    if job.timeout is not None:
        scheduling["timeout"] = f"{int(job.timeout.total_seconds())}s"
    return {
        "displayName": run_id,
        "labels": {RUN_LABEL: run_id, ATTEMPT_LABEL: str(attempt)},
        "jobSpec": {
            "workerPoolSpecs": [_worker_pool(job, pool, env) for pool in job.pools],
            "scheduling": scheduling,
            "baseOutputDirectory": {"outputUriPrefix": run_dir},
        },
    }


def redacted(request: CustomJob) -> CustomJob:
    """Returns a copy of ``request`` that may be shown: without the run's token."""
    shown = copy.deepcopy(request)
    for pool in shown["jobSpec"]["workerPoolSpecs"]:
        for variable in pool["containerSpec"]["env"]:
            if variable["name"] == ENV_TOKEN:
                variable["value"] = REDACTED
    return shown


def _worker_pool(job: Job, pool: Pool, env: dict[str, str]) -> dict[str, Any]:
    machine = pool.machine_type
    slots = {} if pool.slots is None else {ENV_SLOTS: str(pool.slots)}
    container: dict[str, Any] = {"imageUri": job.container.image}
    if job.container.command:
        container["command"] = list(job.container.command)
    if job.container.args:
        container["args"] = list(job.container.args)
    container["env"] = [
        {"name": name, "value": value}
        for name, value in {**job.env, **pool.env, **env, **slots}.items()
    ]
    return {
        "machineSpec": {
            "machineType": machine.name,
            "acceleratorType": machine.accelerator.name,
            "acceleratorCount": machine.gpus,
        },
        "replicaCount": str(pool.replicas),
        "diskSpec": dict(BOOT_DISK),
        "containerSpec": container,
    }
