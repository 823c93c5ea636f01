"""The CustomJob API: submit, find, get, list, cancel, delete, wait.

Everything goes through google-cloud-aiplatform's JobServiceClient, to Vertex AI and to
the emulator alike. The client takes most of a second to import, so that happens when
the first request is sent. What is transient (launcher.api.apierror says what) is tried again
with growing pauses.

A create that got no answer may have been carried out all the same. It is never just sent
again: first the job is looked up by the two labels that every request of Swell carries, the run
and the attempt, or the number of the run's controller. Two things about that could not be verified:
whether Vertex AI lists a job from the very moment of its creation (the pause before the look-up is
there for that, too), and whether its filters take labels with a dash (if it says no, all jobs are
listed and filtered here).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from launcher.api.apierror import ApiError, Service
from launcher.api.client import import_client
from launcher.api.reach import reaching
from launcher.api.retry import Retries
from launcher.api.transport import ENV_ENDPOINT, job_client, translated
from launcher.job.customjob import (
    ATTEMPT_LABEL,
    CONTROLLER_LABEL,
    RUN_LABEL,
    CustomJob,
    serialise,
)

# The SDK's own list forgets the last two, and its wait then never ends.
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})
PAGE = 100
TIMEOUT = 30.0  # seconds without an answer after which a request has failed

_JOB = re.compile(r"projects/[^/\s]+/locations/[a-z0-9-]+/customJobs/[0-9]+")
_REGION = re.compile(r"[a-z0-9-]+")
_T = TypeVar("_T")


@dataclass(frozen=True)
class JobState:
    """What the API says about one CustomJob."""

    name: str  # projects/P/locations/L/customJobs/ID
    state: str  # QUEUED, PENDING, RUNNING, …
    reason: str = ""  # the API's error message, when there is one
    code: int = 0  # that error's google.rpc.Code
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0  # Unix seconds; so are the next two, 0 before there is one
    started: float = 0.0  # when all replicas were up for the first time
    finished: float = 0.0
    output: str = ""  # its base output directory: for Swell's jobs, the run directory

    @property
    def ended(self) -> bool:
        """Whether the state can no longer change."""
        return self.state in TERMINAL


class Jobs:
    """The CustomJobs of one project in one region.

    Args:
        project: Google Cloud project id.
        region: for example us-central1.
        endpoint: base URL of the API, or None for Vertex AI's own (or what the variable
            SWELL_VERTEX_ENDPOINT says). An http:// endpoint is an emulator's and gets no
            credentials.
        via: base URL where that is reached from here, if it is another.
        token: what an emulator wants to be shown; see launcher.api.transport.
        retries: how what is transient is tried again.
        timeout: seconds to wait for one answer.
    """

    def __init__(
        self,
        project: str,
        region: str,
        endpoint: str | None = None,
        *,
        via: str = "",
        token: str = "",
        retries: Retries | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.region = region
        self.parent = f"projects/{project}/locations/{region}"
        self.endpoint = (endpoint or own_endpoint(region)).rstrip("/")
        self._service = Service(
            name="Vertex AI",
            api="aiplatform.googleapis.com",
            role="roles/aiplatform.user",
            project=project,
            endpoint=self.endpoint,
            region=region,
        )
        self._retries = retries or Retries()
        self._timeout = timeout
        self._token = token
        self._via = via or self.endpoint
        self._client: Any = None

    def _tried(self, send: Callable[[], _T]) -> _T:
        """Sends until it is taken, or for as long as it is tried."""
        with reaching(self.endpoint, self._retries.backoff.limit + 2 * self._timeout):
            return self._retries.run(send)

    def submit(self, request: CustomJob) -> JobState:
        """Creates a CustomJob, once, however often it has to be tried.

        A request without Swell's labels cannot be looked up; it is tried again only when the API
        has said that it did not take it (429).

        Raises ApiError; one that is transient may have left the job created (``find`` tells).
        """
        message, labels = self._message(request), request.get("labels", {})
        which = CONTROLLER_LABEL if CONTROLLER_LABEL in labels else ATTEMPT_LABEL
        identity = {name: str(labels.get(name, "")) for name in (RUN_LABEL, which)}
        sent = False

        def create(client: Any) -> JobState:
            return _state(
                client.create_custom_job(
                    parent=self.parent, custom_job=message, timeout=self._timeout
                )
            )

        def create_once() -> JobState:
            nonlocal sent
            if sent and all(identity.values()):
                for job in self._labelled(identity):
                    return job
            sent = True
            try:
                return self._send(create)
            except ApiError as error:
                if error.code != 429 and not all(identity.values()):
                    error.transient = False
                raise

        return self._tried(create_once)

    def find(self, run_id: str | None = None, attempt: int | None = None) -> Sequence[JobState]:
        """Returns the CustomJobs that Swell submitted, the newest first. Raises ApiError.

        Args:
            run_id: only those of this run.
            attempt: only this attempt's; of one run there is one at most.
        """
        labels = {RUN_LABEL: run_id, ATTEMPT_LABEL: None if attempt is None else str(attempt)}
        wanted = {name: value for name, value in labels.items() if value is not None}
        return self._tried(lambda: self._labelled(wanted))

    def find_controller(self, run_id: str, number: int) -> Sequence[JobState]:
        """Returns a run's controller of this number: one CustomJob at most. Raises ApiError."""
        wanted = {RUN_LABEL: run_id, CONTROLLER_LABEL: str(number)}
        return self._tried(lambda: self._labelled(wanted))

    def get(self, name: str) -> JobState:
        """Returns the state of the CustomJob ``name``. Raises ApiError."""
        return self._call(
            lambda client: _state(client.get_custom_job(name=name, timeout=self._timeout)), name
        )

    def list(self, filter: str = "", limit: int | None = None) -> Sequence[JobState]:
        """Returns CustomJobs, the newest first. Raises ApiError.

        Args:
            filter: in the API's syntax, such as ``state="JOB_STATE_RUNNING"``.
            limit: at most so many.
        """
        return self._tried(lambda: self._pages(filter, limit))

    def cancel(self, name: str) -> None:
        """Asks for the end of the CustomJob ``name``; fine if it has ended. Raises ApiError."""
        try:
            self._call(
                lambda client: client.cancel_custom_job(name=name, timeout=self._timeout), name
            )
        except ApiError as error:
            # Refused because it is over: by itself, or by a try that got no answer.
            if error.code != 400 or not _ending(self.get(name)):
                raise

    def delete(self, name: str) -> None:
        """Removes the CustomJob ``name`` from the API; fine if it is gone. Raises ApiError."""
        tried = False

        def delete(client: Any) -> None:
            nonlocal tried
            again, tried = tried, True
            try:
                operation = client.delete_custom_job(name=name, timeout=self._timeout)
            except Exception as error:
                if again and getattr(error, "code", None) == 404:
                    return  # done by a try that got no answer
                raise
            operation.result(timeout=self._timeout)

        self._call(delete, name)

    def wait(
        self,
        name: str,
        *,
        poll: float,
        limit: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> JobState:
        """Returns the state of a CustomJob when it has ended, or as it is after ``limit`` seconds.

        Args:
            name: the CustomJob.
            poll: seconds between two looks.
            limit: seconds after which there is no further look.
            clock: returns seconds.
            sleep: waits.

        Raises ApiError.
        """
        deadline = clock() + limit
        while not (job := self.get(name)).ended and clock() < deadline:
            sleep(poll)
        return job

    def _message(self, request: CustomJob) -> Any:
        import_client()
        try:
            from google.cloud.aiplatform_v1.types.custom_job import CustomJob as Message
        except ImportError as error:
            raise translated(error, self._service) from None
        try:
            return Message.from_json(serialise(request))
        except Exception as error:  # protobuf's, which says the field
            why = " ".join(str(error).split())
            raise ApiError(
                "SW3015", f"the request is not a CustomJob: {why}; update google-cloud-aiplatform"
            ) from None

    def _labelled(self, wanted: Mapping[str, str]) -> Sequence[JobState]:
        terms = [f'labels.{name}="{value}"' for name, value in wanted.items()]
        try:
            jobs = self._pages(" AND ".join(terms or [f"labels.{RUN_LABEL}:*"]), None)
        except ApiError as error:
            if error.code != 400:
                raise
            jobs = self._pages("", None)  # the filter may be what it does not like
        # Checked here as well: to take a stranger's job for one's own is the one mistake that
        # must not happen, whatever a server makes of the filter.
        return [
            job for job in jobs if RUN_LABEL in job.labels and wanted.items() <= job.labels.items()
        ]

    def _pages(self, filter: str, limit: int | None) -> Sequence[JobState]:
        request = {
            "parent": self.parent,
            "filter": filter,
            "page_size": PAGE if limit is None else min(limit, PAGE),
        }
        return self._send(
            lambda client: [
                _state(job)
                for job in islice(
                    client.list_custom_jobs(request=request, timeout=self._timeout), limit
                )
            ]
        )

    def _call(self, send: Callable[[Any], _T], asked: str = "") -> _T:
        return self._tried(lambda: self._send(send, asked))

    def _send(self, send: Callable[[Any], _T], asked: str = "") -> _T:
        try:
            if self._client is None:
                self._client = job_client(self._via, self._token)
            return send(self._client)
        except Exception as error:  # whatever the libraries raise; see launcher.api.transport
            raise translated(error, self._service, asked) from None


def own_endpoint(region: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns base URL of the API for ``region``: Vertex AI's own, or what SWELL_VERTEX_ENDPOINT
    says."""
    named = environment.get(ENV_ENDPOINT)
    return (named or f"https://{region}-aiplatform.googleapis.com").rstrip("/")


def endpoint_of(attempt: Mapping[str, Any]) -> str:
    """Returns base URL of the API that an attempt was sent to.

    A run directory may be anybody's, so its word is not enough for requests to go anywhere, with
    credentials or without.

    Args:
        attempt: a record of ``attempts/``.

    Raises ApiError when it names another place than this user's own.
    """
    region, named = str(attempt["region"]), str(attempt["endpoint"]).rstrip("/")
    own = own_endpoint(region) if _REGION.fullmatch(region) else ""
    if named != own:
        raise ApiError(
            "SW3021",
            f"attempt {attempt.get('attempt')} was sent to {named} in {region}, says the run "
            f"directory, which is not asked on its word; point {ENV_ENDPOINT} at an emulator that "
            "is yours",
        )
    return own


def jobs_of(attempt: Mapping[str, Any], project: str, retries: Retries | None = None) -> Jobs:
    """Returns the API that an attempt was sent to.

    Args:
        attempt: a record of ``attempts/``.
        project: the run's project, for an attempt that does not know its CustomJob.
        retries: see Jobs.

    Raises ApiError as ``endpoint_of``.
    """
    name = str(attempt.get("job") or "")
    if name.startswith("projects/"):
        project = name.split("/")[1]
    return Jobs(project, str(attempt["region"]), endpoint_of(attempt), retries=retries)


def runs_among(jobs: Iterable[JobState]) -> dict[str, JobState]:
    """Returns the newest CustomJob that trains of each run, by the run's id."""
    newest: dict[str, JobState] = {}
    for job in sorted(jobs, key=lambda job: job.created):
        if (run_id := job.labels.get(RUN_LABEL)) and CONTROLLER_LABEL not in job.labels:
            newest[run_id] = job
    return newest


def is_job(name: str) -> bool:
    """Whether ``name`` can be a CustomJob's resource name."""
    return _JOB.fullmatch(name) is not None


def console_url(name: str) -> str:
    """Returns where a browser shows the CustomJob ``name``, as Google's SDK prints it."""
    _, project, _, region, _, job_id = name.split("/")
    where = f"https://console.cloud.google.com/agent-platform/locations/{region}"
    return f"{where}/training/{job_id}?project={project}"


def _ending(job: JobState) -> bool:
    return job.ended or job.state == "CANCELLING"


def _state(job: Any) -> JobState:
    if not job.name:  # an empty object can be read as any message
        raise ValueError("a CustomJob without a name")
    state = getattr(job.state, "name", f"JOB_STATE_{job.state}")  # a number that is not known yet
    return JobState(
        name=str(job.name),
        state=str(state).removeprefix("JOB_STATE_"),
        reason=str(job.error.message) if job.error else "",
        code=int(job.error.code) if job.error else 0,
        labels=dict(job.labels),
        created=_unix(job.create_time),
        started=_unix(job.start_time),
        finished=_unix(job.end_time),
        output=str(job.job_spec.base_output_directory.output_uri_prefix),
    )


def _unix(moment: Any) -> float:
    return float(moment.timestamp()) if moment else 0.0
