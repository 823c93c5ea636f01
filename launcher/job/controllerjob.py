"""Turns a job into the CustomJob of its controller, purely; see ``customjob`` for the run's own."""

from __future__ import annotations

from typing import Any

from launcher.job.controller import Controller
from launcher.job.customjob import (
    CONTROLLER_LABEL,
    RUN_LABEL,
    CustomJob,
    duration_text,
    network_of,
)
from launcher.job.job import Job
from trainer.rundir.names import ENV_RUN_DIR, ENV_RUN_ID

ENV_NUMBER = "SWELL_CONTROLLER"
ENV_TRUST = "SWELL_CONTROLLER_TRUST"  # secret: what launcher.trust has made
ENV_TRUST_SECRET = "SWELL_CONTROLLER_TRUST_SECRET"  # or where in Secret Manager it is
ENV_API = "SWELL_VERTEX_ENDPOINT"  # launcher.api.transport's, where it is not Vertex AI's own
# An emulator says to the VMs of controllers where they reach its API, and what to show it.
ENV_EMULATOR = "SWELL_EMULATOR_API"
ENV_EMULATOR_TOKEN = "SWELL_EMULATOR_API_TOKEN"
COMMAND = ["python", "-m", "launcher.controller"]


def build_controller(
    job: Job,
    *,
    run_id: str,
    run_dir: str,
    number: int,
    trust: str,
    endpoint: str = "",
) -> CustomJob:
    """Returns the CustomJob to send for one controller of a run.

    Args:
        job: what the user wants.
        run_id: the run's name.
        run_dir: URL of the run directory.
        number: of this controller, from 1.
        trust: what it needs to act for whoever launched the run; the name of its version in Secret
            Manager if that delivers it.
        endpoint: base URL of the API, where that is not Vertex AI's own.
    """
    asked = job.controller or Controller()
    env = {
        ENV_RUN_DIR: run_dir,
        ENV_RUN_ID: run_id,
        ENV_NUMBER: str(number),
        (ENV_TRUST_SECRET if job.token_secret else ENV_TRUST): trust,
        **({ENV_API: endpoint} if endpoint else {}),
    }
    pool = {
        "machineSpec": {"machineType": asked.machine},
        "replicaCount": "1",
        "containerSpec": {
            "imageUri": asked.image,
            "command": COMMAND,
            # A value's $(NAME) would be expanded.
            "env": [{"name": name, "value": env[name].replace("$", "$$")} for name in env],
        },
    }
    scheduling: dict[str, Any] = {"strategy": "STANDARD", "restartJobOnWorkerRestart": False}
    if asked.timeout is not None:
        scheduling["timeout"] = duration_text(asked.timeout)
    request: CustomJob = {
        "displayName": f"{run_id}-controller",
        "labels": {**job.labels, RUN_LABEL: run_id, CONTROLLER_LABEL: str(number)},
    }
    if job.encryption_key:
        request["encryptionSpec"] = {"kmsKeyName": job.encryption_key}
    spec: dict[str, Any] = {"workerPoolSpecs": [pool], "scheduling": scheduling}
    if job.service_account:
        spec["serviceAccount"] = job.service_account
    spec.update(network_of(job))
    request["jobSpec"] = spec
    return request
