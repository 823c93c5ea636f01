"""How requests reach Google's APIs, or an emulator of them; and how their failures look from here.

Both of Swell's clients (api.vertex, logs.cloudlog) speak HTTPS through requests and
google-auth. Whatever those raise becomes an ApiError here, so that no traceback of theirs ever
meets a user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from launcher.api.apierror import (
    ENV_TOKEN_FILE,
    GARBLED,
    LOGIN,
    SILENT,
    UNACCEPTED,
    WANTS_TOKEN,
    ApiError,
    Service,
    read_answer,
    refusal,
)
from launcher.api.client import import_client
from launcher.job.machines import MACHINES

NO_CREDENTIALS = "SW3001"  # the message about a machine where nobody has logged in
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
INSTALL = "pip install 'swell[vertex]'"
ENV_ENDPOINT = "SWELL_VERTEX_ENDPOINT"  # in place of Vertex AI's own, for an emulator


def is_emulator(endpoint: str) -> bool:
    """Whether the endpoint is plain http: Google's are not, and it gets no credentials."""
    return endpoint.startswith("http://")


def environments_token(endpoint: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the token for the emulator that the environment names, and for no other endpoint.

    Raises OSError when the file that it is in cannot be read.
    """
    file = environment.get(ENV_TOKEN_FILE)
    named = environment.get(ENV_ENDPOINT, "").rstrip("/") == endpoint
    return Path(file).read_text("ascii").strip() if file and named else ""


def job_client(endpoint: str, token: str = "") -> Any:
    """Returns google-cloud-aiplatform's JobServiceClient for the endpoint.

    Args:
        endpoint: base URL of the API.
        token: what an emulator wants to be shown, if it is not the one that the environment names.

    Raises what Google's libraries raise; see ``translated``.
    """
    import_client()
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services.job_service import JobServiceClient

    if not is_emulator(endpoint):
        host = endpoint.removeprefix("https://")
        return JobServiceClient(transport="rest", client_options={"api_endpoint": host})
    client = JobServiceClient(
        transport="rest",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": endpoint},
    )
    transport: Any = client.transport
    _to_emulator(transport._session, token or environments_token(endpoint))
    return client


def session(endpoint: str, token: str = "") -> Any:
    """Returns a requests.Session that is let in by the endpoint. Raises as ``job_client``."""
    import google.auth
    import requests
    from google.auth.transport.requests import AuthorizedSession

    if is_emulator(endpoint):
        plain = requests.Session()
        _to_emulator(plain, token or environments_token(endpoint))
        return plain
    credentials, _ = google.auth.default(scopes=[SCOPE])
    return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]


def _to_emulator(session: Any, token: str) -> None:
    # A proxy that the environment names must not get what is meant for this machine.
    session.trust_env = False
    if token:
        session.headers["Authorization"] = f"Bearer {token}"


def translated(error: Exception, service: Service, asked: str = "") -> ApiError:
    """Returns ``error``, which one of Google's libraries raised, as an ApiError.

    Args:
        error: what was raised.
        service: the API.
        asked: the resource that the request named, if it named one.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ImportError):
        return ApiError(
            "SW3014", f"{service}: Google's client is missing ({error}); run: {INSTALL}"
        )
    response: Any = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):
        answer = read_answer(response.status_code, response.text, response.headers)
        return refusal(answer, service, asked)
    return _of_credentials(error, service) or _of_connection(error, service)


def _of_credentials(error: Exception, service: Service) -> ApiError | None:
    from google.auth import exceptions

    why = _said(error)
    if isinstance(error, exceptions.TransportError):  # no answer from where tokens come from
        return ApiError(
            SILENT, f"{service}: no access token can be had: {why}", transient=True, kind="silent"
        )
    if isinstance(error, exceptions.RefreshError):
        return ApiError(
            UNACCEPTED,
            f"{service}: the Google Cloud credentials are no longer valid ({why}); run: {LOGIN}",
            transient=error.retryable,
            kind="credentials",
        )
    if isinstance(error, exceptions.InvalidOperation):  # what was sent to plain http had none
        return ApiError(
            UNACCEPTED,
            f"{service}: 401, it wants credentials; {WANTS_TOKEN}",
            kind="credentials",
            code=401,
        )
    if isinstance(error, exceptions.MalformedError | exceptions.DefaultCredentialsError):
        return ApiError(
            NO_CREDENTIALS,
            "there are no Google Cloud credentials on this machine; "
            f"run: {LOGIN} (on a machine without a browser: point "
            "GOOGLE_APPLICATION_CREDENTIALS at a service account's key file)"
            + ("" if "were not found" in why else f" [{why}]"),
            kind="credentials",
        )
    if isinstance(error, exceptions.GoogleAuthError):
        return ApiError(
            UNACCEPTED,
            f"{service}: {why}; run: {LOGIN}",
            transient=error.retryable,
            kind="credentials",
        )
    return None


def _of_connection(error: Exception, service: Service) -> ApiError:
    import requests
    from google.api_core.exceptions import RetryError
    from google.protobuf.json_format import ParseError

    why = _said(error)
    if isinstance(error, requests.exceptions.SSLError):
        return ApiError(
            "SW3011",
            f"{service}: its certificate is not trusted here ({why}); behind a proxy that opens "
            "TLS, point REQUESTS_CA_BUNDLE at its certificate",
            kind="silent",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return ApiError(
            "SW3012",
            f"{service}: the proxy does not let the request through ({why}); check HTTPS_PROXY",
            transient=True,
            kind="silent",
        )
    if isinstance(error, requests.exceptions.Timeout):
        return ApiError(SILENT, f"{service} does not answer in time", transient=True, kind="silent")
    if "NameResolution" in why or "Name or service not known" in why:
        return _unknown_host(service)
    # What it answered, if it did, cannot be read: cut off, or not what the API answers at all.
    # (The errors of requests are OSErrors, also those of JSON.)
    if isinstance(error, ValueError | ParseError):
        return ApiError(
            GARBLED,
            f"{service} answered what is not the API's JSON: {why}",
            transient=True,
            kind="silent",
        )
    if isinstance(error, OSError | RetryError):
        return ApiError(SILENT, f"{service} does not answer: {why}", transient=True, kind="silent")
    said = f"the answer is not understood ({type(error).__name__}: {why})"
    return ApiError(GARBLED, f"{service}: {said}")


def _unknown_host(service: Service) -> ApiError:
    host = service.endpoint.removeprefix("https://")
    known = {region for machine in MACHINES.values() for region in machine.accelerator.regions}
    remedy = "check the network, HTTPS_PROXY and the region"
    if service.region and service.region not in known:
        near = get_close_matches(service.region, known, n=1)
        remedy = f"{service.region} is not a region known here" + (
            f"; did you mean {near[0]}?" if near else "; check regions in the job file"
        )
    said = f"{service}: {host} cannot be found; {remedy}"
    return ApiError("SW3016", said, transient=True, kind="silent")


def _said(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:299] + "…"
