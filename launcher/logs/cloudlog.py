"""Cloud Logging's ``entries:list``: what the replicas of a CustomJob have printed.

https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list, over plain REST: the
official client would be one more large import for one method. Vertex AI writes a CustomJob's
output under the resource ``ml_job``, with the number of the job and the replica (or ``service``)
as labels. The emulator serves the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from launcher.api.apierror import GARBLED, ApiError, Service, read_answer, refusal
from launcher.api.reach import reaching
from launcher.api.retry import Retries
from launcher.api.transport import is_emulator, session, translated
from launcher.logs.logline import Line, format_time, parse_time
from launcher.logs.tail import Tail

GOOGLE = "https://logging.googleapis.com"
PAGE = 1000  # entries; the most that the API gives
TIMEOUT = 60.0  # seconds


class CloudLog:
    """The log of one CustomJob; each ``read_new`` gives the lines not given before.

    Args:
        job: the CustomJob's resource name.
        endpoint: base URL of the API that the job was sent to. With an emulator's, it has the
            logs as well; else they are with Google.
        replica: only this one's lines, or None for everybody's.
        since: only lines from this time on, in nanoseconds; None for all.
        retries: how what is transient is tried again.
        timeout: seconds to wait for one answer.
        clock: the time of day in nanoseconds.
    """

    def __init__(
        self,
        job: str,
        endpoint: str,
        *,
        replica: str | None = None,
        since: int | None = None,
        retries: Retries | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        _, self._project, _, _, _, self._job_id = job.split("/")
        self._endpoint = endpoint.rstrip("/") if is_emulator(endpoint) else GOOGLE
        self._replica = replica
        self._tail = Tail(since)
        self._retries = retries or Retries()
        self._timeout = timeout
        self._clock = clock
        self._session: Any = None
        self._service = Service(
            name="Cloud Logging",
            api="logging.googleapis.com",
            role="roles/logging.viewer",
            project=self._project,
            endpoint=self._endpoint,
        )

    def read_new(self) -> Iterator[Line]:
        """Yields new lines by time, page by page; see launcher.logs.tail. Raises ApiError."""
        since = self._tail.begin(self._clock())
        body: dict[str, Any] = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": self._filter(since),
            "orderBy": "timestamp asc",
            "pageSize": PAGE,
        }
        while True:
            with reaching(self._endpoint, self._retries.backoff.limit + 2 * self._timeout):
                page = self._retries.run(lambda: self._ask(body))
            entries = page.get("entries", [])
            yield from self._tail.take(line for line in map(read_entry, entries) if line)
            token = page.get("nextPageToken")
            if not token:
                return
            if token == body.get("pageToken"):
                raise ApiError(
                    GARBLED, f"{self._service}: the page after a page is the same page again"
                )
            body["pageToken"] = token

    def _filter(self, since: int | None) -> str:
        terms = ['resource.type="ml_job"', f'resource.labels.job_id="{self._job_id}"']
        if self._replica is not None:
            terms.append(f'resource.labels.task_name="{self._replica}"')
        if since is not None:
            terms.append(f'timestamp>="{format_time(since)}"')
        return " AND ".join(terms)

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._session is None:
                self._session = session(self._endpoint)
            answer = self._session.post(
                f"{self._endpoint}/v2/entries:list", json=body, timeout=self._timeout
            )
            if answer.status_code != 200:
                raise refusal(
                    read_answer(answer.status_code, answer.text, answer.headers), self._service
                )
            page = answer.json()
        except Exception as error:  # whatever the libraries raise; see launcher.api.transport
            raise translated(error, self._service) from None
        if not isinstance(page, dict) or not isinstance(page.get("entries", []), list):
            raise ApiError(
                GARBLED,
                f"{self._service} answered what is not a page of entries",
                transient=True,
                kind="silent",
            )
        return page


def read_entry(entry: Any) -> Line | None:
    """Returns a LogEntry as a Line, or None when it is none.

    The text may be textPayload, jsonPayload.message, or a jsonPayload of any other form.
    """
    if not isinstance(entry, dict):
        return None
    try:
        at = parse_time(str(entry.get("timestamp") or entry.get("receiveTimestamp")))
    except ValueError:
        return None
    resource = entry.get("resource")
    labels = resource.get("labels") if isinstance(resource, dict) else None
    name = labels.get("task_name") if isinstance(labels, dict) else None
    payload = entry.get("jsonPayload")
    message = payload.get("message") if isinstance(payload, dict) else None
    if message is None:
        message = entry.get("textPayload")
    if message is None:
        message = json.dumps(payload, ensure_ascii=False) if payload else ""
    return Line(
        at,
        str(name or "service"),
        str(entry.get("severity", "DEFAULT")),
        str(message),
        # In one log, entries of one time and insertId are the same entry.
        f"{entry.get('logName', '')} {entry.get('insertId') or message}",
    )
