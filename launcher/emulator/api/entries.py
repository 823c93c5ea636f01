"""Cloud Logging's ``entries:list``, over the logs of replicas."""

from __future__ import annotations

import base64
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.emulator.api.filters import All, Term, parse_filter
from launcher.emulator.logs import Entry, read_entries
from launcher.emulator.resources.errors import invalid_argument

MAX_PAGE = 1000
DEFAULT_PAGE = 50
FIELDS = (
    "resource.type",
    "resource.labels.job_id",
    "resource.labels.task_name",
    "severity",
    "timestamp",
    "insertId",
    "jsonPayload.message",
)
KNOWN = ("resourceNames", "filter", "orderBy", "pageSize", "pageToken", "projectIds")

# Where an entry stands in the order: its time, and what makes it one of a kind.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Query:
    """What a request asks for."""

    filter: All
    descending: bool
    page_size: int
    after: Key | None


def parse_query(body: dict[str, Any]) -> Query:
    """Returns the query of a request's body; ApiError names the field that is wrong."""
    if unknown := sorted(set(body) - set(KNOWN)):
        raise invalid_argument(f'Unknown name "{unknown[0]}" in the request.')
    order = body.get("orderBy") or "timestamp asc"
    if order not in ("timestamp asc", "timestamp desc"):
        raise invalid_argument('orderBy must be "timestamp asc" or "timestamp desc".')
    text = body.get("filter") or ""
    if not isinstance(text, str):
        raise invalid_argument("filter must be a string.")
    expression = parse_filter(text)
    for term in expression.terms():
        if term.field not in FIELDS:
            raise invalid_argument(
                f"filter: {term.field} is not emulated; known are {', '.join(FIELDS)}."
            )
    size = body.get("pageSize") or DEFAULT_PAGE
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise invalid_argument("pageSize must be a positive number.")
    return Query(
        expression,
        order.endswith("desc"),
        min(size, MAX_PAGE),
        _decode(body["pageToken"]) if body.get("pageToken") else None,
    )


def answer(query: Query, root: Path) -> dict[str, Any]:
    """Returns the response of one page: ``entries`` and, if there are more, ``nextPageToken``."""
    # Only the page is held in memory, however long the logs are.
    best = heapq.nlargest if query.descending else heapq.nsmallest
    page = best(query.page_size + 1, _matching(query, root), key=_key)
    response: dict[str, Any] = {"entries": page[: query.page_size]}
    if len(page) > query.page_size:
        response["nextPageToken"] = _encode(_key(page[query.page_size - 1]))
    return response


def _matching(query: Query, root: Path) -> Iterator[Entry]:
    for entry in read_entries(
        root, _exact(query, "resource.labels.job_id"), _exact(query, "resource.labels.task_name")
    ):
        key = _key(entry)
        if query.after and (key >= query.after if query.descending else key <= query.after):
            continue
        if query.filter.holds(lambda field: _value(entry, field)):  # noqa: B023 (used at once)
            yield entry


def _exact(query: Query, field: str) -> str | None:
    for term in query.filter.parts:
        if isinstance(term, Term) and term.field == field and term.operator == "=":
            return term.value
    return None


def _value(entry: Entry, field: str) -> str | None:
    value: Any = entry
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if value is None else str(value)


def _key(entry: Entry) -> Key:
    return entry["timestamp"], entry["resource"]["labels"]["job_id"], entry["insertId"]


def _encode(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _decode(token: Any) -> Key:
    try:
        time, job_id, insert_id = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, TypeError, RecursionError):
        raise invalid_argument("pageToken was not made by this service.") from None
    return str(time), str(job_id), str(insert_id)
