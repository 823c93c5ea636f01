"""Reading the run's secret from Secret Manager, where the environment only names it.

One request of its REST API, ``GET /v1/projects/P/secrets/S/versions/V:access``, with the
VM's own credentials. Source: cloud.google.com/secret-manager/docs/reference/rest
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from trainer.rundir.retry import PATIENT, TRANSIENT_STATUS, Backoff
from trainer.rundir.usererror import Unusable

ENDPOINT = "https://secretmanager.googleapis.com"
ENV_ENDPOINT = "SWELL_SECRET_MANAGER"  # where the emulator serves it to its VMs
ANSWER_LIMIT = 256 * 1024  # bytes; a secret has 64 KiB at most
_VERSION = re.compile(r"projects/[^/\s]+/secrets/[\w-]+/versions/(\d+|latest)")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TIMEOUT = 10.0  # seconds of one request

SECRET = "SW4009"  # the message about a secret that Secret Manager does not give

Get = Callable[[str], tuple[int, bytes]]


def read_secret(
    version: str,
    env: Mapping[str, str],
    get: Get | None = None,
    retry: Backoff = PATIENT,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Returns the text of a secret's version.

    Args:
        version: ``projects/P/secrets/S/versions/V``.
        env: this process's environment.
        get: requests a URL with the VM's credentials; returns status and body.
        retry: how long to try again what is refused for a moment.
        sleep: waits for so many seconds.

    Raises Unusable when it cannot be had, OSError when nobody answers.
    """
    if not _VERSION.fullmatch(version):
        raise Unusable(SECRET, f"{version[:200]!r} is not projects/P/secrets/S/versions/V")
    endpoint = env.get(ENV_ENDPOINT, ENDPOINT)
    get = get or _with_credentials(endpoint)
    waits = retry.waits()
    while True:
        try:
            status, body = get(f"{endpoint}/v1/{version}:access")
            if status == 200:
                return _payload(version, body)
            if status not in TRANSIENT_STATUS:
                raise Unusable(SECRET, f"{version}: Secret Manager answers {status}{_why(status)}")
            said = OSError(f"{version}: Secret Manager answers {status}")
        except OSError as error:
            said = OSError(f"{version}: Secret Manager does not answer: {type(error).__name__}")
        wait = next(waits, None)
        if wait is None:
            raise said
        sleep(wait)


def _why(status: int) -> str:
    if status in (401, 403):
        return "; let the job's service account have roles/secretmanager.secretAccessor"
    return "; there is no such version" if status == 404 else ""


def _payload(version: str, body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
        return base64.b64decode(answer["payload"]["data"], validate=True).decode("ascii")
    except (ValueError, KeyError, TypeError, RecursionError):  # which would show what is in it
        raise Unusable(
            SECRET, f"{version}: Secret Manager's answer is not what it documents"
        ) from None


def _with_credentials(endpoint: str) -> Get:
    try:
        import google.auth
        import requests
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise Unusable(
            SECRET, f"Secret Manager needs what Swell's extra `gcs` installs ({error})"
        ) from None
    session = requests.Session()
    if endpoint.startswith("http://"):  # the emulator: no proxy may get what is meant for it
        session.trust_env = False
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError:
        raise Unusable(
            SECRET, "Secret Manager: this VM has no credentials; give the job a service account"
        ) from None

    def get(url: str) -> tuple[int, bytes]:
        try:
            if not credentials.valid:
                credentials.refresh(Request(session))  # type: ignore[no-untyped-call]
        except GoogleAuthError as error:
            raise OSError(f"no access token: {type(error).__name__}") from None
        answer = session.get(
            url,
            headers={"Authorization": f"Bearer {credentials.token}"},
            timeout=_TIMEOUT,
            allow_redirects=False,
            stream=True,
        )
        with answer:
            return answer.status_code, answer.raw.read(ANSWER_LIMIT, decode_content=True)

    return get
