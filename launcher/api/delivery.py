"""How a run's secret reaches its agents: in the environment, or through Secret Manager.

Where the job names a secret, every secret of a run becomes a version of it, which the
CustomJob names; the version is destroyed when the run has ended. Whoever reads the CustomJob
sees the name, and only who may access the version can join the run.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from launcher.api.apierror import GARBLED, ApiError, Service
from launcher.api.transport import session, translated
from launcher.job.job import Job
from trainer.protocol.secretmanager import ENDPOINT
from trainer.rundir.directory import RunDirectory

API = "secretmanager.googleapis.com"
ROLE = "roles/secretmanager.secretVersionManager"
TIMEOUT = 30.0  # seconds of one request


@contextmanager
def delivered(
    job: Job, secret: str, run_dir: RunDirectory, endpoint: str = ENDPOINT, token: str = ""
) -> Iterator[str]:
    """Delivers a run's secret, for as long as the context is open and the run goes on.

    Args:
        job: says how.
        secret: what trainer.protocol.credentials.new_secret has made.
        run_dir: the run; its outcome says whether anybody still needs the secret.
        endpoint: of Secret Manager, or of the emulator.
        token: the emulator's.

    Yields what ``customjob.build`` takes for a token. Raises ApiError.
    """
    if job.token_secret is None:
        yield secret
        return
    data = base64.b64encode(secret.encode()).decode()
    url = f"{endpoint}/v1/{job.token_secret}:addVersion"
    _, project, *_ = job.token_secret.split("/")
    service = Service("Secret Manager", API, ROLE, project, endpoint)
    payload = {"payload": {"data": data}}
    version = str(_post(service, token, url, job.token_secret, payload)["name"])
    try:
        yield version
    finally:
        with suppress(OSError, ValueError, ApiError):  # without an outcome it is still needed
            if run_dir.outcome() is not None:
                _post(service, token, f"{endpoint}/v1/{version}:destroy", version, {})


def _post(
    service: Service, token: str, url: str, asked: str, body: dict[str, Any]
) -> dict[str, Any]:
    try:
        answer = session(service.endpoint, token).post(
            url, json=body, timeout=TIMEOUT, allow_redirects=False
        )
        answer.raise_for_status()
        said = answer.json()
    except Exception as error:
        raise translated(error, service, asked) from None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise ApiError(GARBLED, f"{service}: it answers what it does not document")
    return said
