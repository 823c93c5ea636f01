"""The CustomJob API, thinly: submit, get, list, cancel.

Everything goes through google-cloud-aiplatform's JobServiceClient, to Vertex AI and to
the emulator alike. The client takes more than a second to import, so that happens when
the first request is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from launcher.customjob import CustomJob, serialise

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})

_T = TypeVar("_T")
_importing = threading.Lock()


class ApiError(RuntimeError):
    """A request that the API refused or did not answer; one line for the user.

    Attributes:
        transient: whether the same request may well succeed later.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True)
class JobState:
    """What the API says about one CustomJob."""

    name: str  # projects/P/locations/L/customJobs/ID
    state: str  # QUEUED, PENDING, RUNNING, …
    reason: str = ""  # the API's error message, when there is one

    @property
    def ended(self) -> bool:
        """Whether the state can no longer change."""
        return self.state in TERMINAL


class Jobs:
    """The CustomJobs of one project in one region.

    Args:
        project: Google Cloud project id.
        region: for example us-central1.
        endpoint: base URL of the API, or None for Vertex AI's own. An http:// endpoint is
            an emulator's and gets no credentials.
    """

    def __init__(self, project: str, region: str, endpoint: str | None = None) -> None:
        self.region = region
        self.parent = f"projects/{project}/locations/{region}"
        self.endpoint = endpoint or f"https://{region}-aiplatform.googleapis.com"
        self._client: Any = None

    def submit(self, request: CustomJob) -> JobState:
        """Creates a CustomJob. Raises ApiError."""
        import_client()
        from google.cloud.aiplatform_v1.types import CustomJob as Message

        message = Message.from_json(serialise(request))
        return self._call(
            lambda client: _state(
                client.create_custom_job(parent=self.parent, custom_job=message, timeout=60.0)
            )
        )

    def get(self, name: str) -> JobState:
        """Returns the state of the CustomJob ``name``. Raises ApiError."""
        return self._call(lambda client: _state(client.get_custom_job(name=name, timeout=30.0)))

    def list(self, filter: str = "") -> list[JobState]:
        """Returns all CustomJobs that match ``filter``. Raises ApiError."""
        request = {"parent": self.parent, "filter": filter}
        return self._call(
            lambda client: [
                _state(job) for job in client.list_custom_jobs(request=request, timeout=60.0)
            ]
        )

    def cancel(self, name: str) -> None:
        """Asks for the end of the CustomJob ``name``. Raises ApiError."""
        self._call(lambda client: client.cancel_custom_job(name=name, timeout=30.0))

    def _call(self, send: Callable[[Any], _T]) -> _T:
        import_client()
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

        try:
            if self._client is None:
                self._client = _client(self.endpoint)
            return send(self._client)
        except DefaultCredentialsError:
            raise ApiError(
                "there are no Google Cloud credentials on this machine; "
                "run: gcloud auth application-default login"
            ) from None
        except GoogleAPICallError as error:
            code = int(error.code or 0)
            message = " ".join(str(error.message).split())
            transient = code in (0, 408, 429) or code >= 500
            raise ApiError(f"{self.endpoint}: {code} {message}", transient=transient) from None
        except (RetryError, GoogleAuthError, OSError) as error:
            # requests' ConnectionError and Timeout are OSErrors.
            why = " ".join(str(error).split())[:300]
            raise ApiError(f"{self.endpoint} does not answer: {why}", transient=True) from None


def import_client() -> None:
    """Imports Google's client, which the first request would do otherwise.

    One thread at a time: two that enter the package from different ends meet half-made
    modules.
    """
    with _importing, suppress(ImportError):  # the first request says it
        import google.cloud.aiplatform_v1  # noqa: F401


def _client(endpoint: str) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services.job_service import JobServiceClient

    if not endpoint.startswith("http://"):
        host = endpoint.removeprefix("https://")
        return JobServiceClient(transport="rest", client_options={"api_endpoint": host})
    client = JobServiceClient(
        transport="rest",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": endpoint},
    )
    # A proxy that the environment names must not get what is meant for this machine.
    transport: Any = client.transport
    transport._session.trust_env = False
    return client


def _state(job: Any) -> JobState:
    return JobState(
        name=str(job.name),
        state=str(job.state.name).removeprefix("JOB_STATE_"),
        reason=str(job.error.message) if job.error else "",
    )
