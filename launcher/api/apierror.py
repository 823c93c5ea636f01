"""Why a Google API did not do what it was asked, in one line that names the fix.

``ApiError`` is all that the rest of the launcher sees of it. Its text is made here from what
the API answered (https://cloud.google.com/apis/design/errors: a status, a message and typed
details such as ErrorInfo and RetryInfo), or from why there was no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from trainer.rundir.usererror import UserError

Kind = Literal[
    "other", "credentials", "disabled", "permission", "quota", "not_found", "region", "silent"
]

# Ids of messages.
UNACCEPTED = "SW3002"  # credentials that the API does not take
DISABLED = "SW3003"
DENIED = "SW3005"
QUOTA = "SW3006"
REFUSED = "SW3009"  # for a reason that nothing here recognises
SILENT = "SW3010"  # no answer
GARBLED = "SW3013"  # an answer that is not what the API documents

LOGIN = "gcloud auth application-default login"
ENV_TOKEN_FILE = "SWELL_VERTEX_TOKEN_FILE"  # has what an emulator wants to be shown
WANTS_TOKEN = f"point {ENV_TOKEN_FILE} at the file token in the emulator's state directory"
GCLOUD_ITSELF = "projects/764086051850"  # whose quota is used when a user's login names no project
_GPU_QUOTA = re.compile(r"custom_model_training_[a-z0-9_]+")
_SERVICE_ACCOUNT = re.compile(r"[\w.-]+@[\w.-]+\.gserviceaccount\.com")
_LONGEST = 500  # characters of the API's own words


class ApiError(UserError, RuntimeError):
    """A request that an API refused or did not answer.

    Attributes:
        transient: whether the same request may well succeed soon.
        kind: what is wrong, for programs that decide by it.
        code: the HTTP status code; 0 when there was no answer.
        retry_after: for how many seconds the API asks to be left alone, if it says so.
    """

    def __init__(
        self,
        id: str,
        text: str,
        *,
        transient: bool = False,
        kind: Kind = "other",
        code: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(id, text)
        self.transient = transient
        self.kind = kind
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True)
class Service:
    """Which API was asked, and about what: the words of its errors.

    Attributes:
        name: what people call it.
        api: its name for ``gcloud services enable``.
        role: the IAM role that allows what Swell does there.
        project: Google Cloud project id.
        endpoint: base URL.
        region: its region, or "" for an API without regions.
    """

    name: str
    api: str
    role: str
    project: str
    endpoint: str
    region: str = ""

    def __str__(self) -> str:
        if self.endpoint.startswith("http://"):  # an emulator
            return self.endpoint
        return f"{self.name} in {self.region}" if self.region else self.name


@dataclass(frozen=True)
class Answer:
    """An HTTP error answer, taken apart."""

    code: int
    status: str = ""
    message: str = ""
    details: tuple[dict[str, Any], ...] = ()
    retry_after: float | None = None
    info: dict[str, Any] = field(default_factory=dict)  # ErrorInfo's metadata

    @property
    def reason(self) -> str:
        """ErrorInfo's reason, such as SERVICE_DISABLED."""
        return str(_detail(self.details, "ErrorInfo").get("reason", ""))


def read_answer(
    code: int, text: str, headers: Mapping[str, str], now: datetime | None = None
) -> Answer:
    """Takes an error answer apart, whatever its body is.

    Args:
        code: the HTTP status code.
        text: the body; Google's JSON, or a page of some proxy on the way.
        headers: its headers.
        now: the time of day, for a Retry-After that is a date.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, list):  # what streaming methods answer
        body = body[0] if body else None
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {"message": re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", " ", text)}
    given = error.get("details")
    details = tuple(d for d in given if isinstance(d, dict)) if isinstance(given, list) else ()
    info = _detail(details, "ErrorInfo").get("metadata")
    return Answer(
        code,
        str(error.get("status", "")),
        _one_line(str(error.get("message", ""))),
        details,
        _retry_after(details, headers.get("Retry-After"), now or datetime.now(timezone.utc)),
        info if isinstance(info, dict) else {},
    )


def refusal(answer: Answer, service: Service, asked: str = "") -> ApiError:
    """Returns the error for an answer.

    Args:
        answer: what the API said.
        service: the API.
        asked: the resource that the request named, if it named one.
    """
    kind, id, fix = _diagnosis(answer, service, asked)
    said = f"{answer.code} {answer.message or answer.status or 'without an explanation'}"
    return ApiError(
        id,
        f"{service}: {said.rstrip('.')}" + (f"; {fix}" if fix else ""),
        # More GPUs than the quota allows: no amount of asking again helps.
        transient=kind == "other" and (answer.code in (408, 429) or answer.code in _SERVER_SIDE),
        kind=kind,
        code=answer.code,
        retry_after=answer.retry_after,
    )


_SERVER_SIDE = frozenset(range(500, 600)) - {501, 505}


def _diagnosis(answer: Answer, service: Service, asked: str) -> tuple[Kind, str, str]:
    """Returns what is wrong, its id, and what to do."""
    said, project = answer.message, service.project
    if answer.code == 401:
        fix = WANTS_TOKEN if service.endpoint.startswith("http://") else f"run: {LOGIN}"
        return "credentials", UNACCEPTED, fix
    if answer.code == 403:
        return _forbidden(answer, service)
    if answer.code == 429 and (quota := _GPU_QUOTA.search(said)):
        return (
            "quota",
            QUOTA,
            f"ask for more of {quota[0]} in {service.region or 'the region'} at "
            f"https://console.cloud.google.com/iam-admin/quotas?project={project}, "
            "use fewer replicas or another region",
        )
    if answer.code == 404:
        return "not_found", "SW3007", _missing(service, asked)
    if answer.code == 400 and re.search(r"(?i)(un)?supported (region|location)|location id", said):
        return "region", "SW3008", f"check regions in the job file: {service.region!r} is asked for"
    if answer.code == 400 and (account := _SERVICE_ACCOUNT.search(said)) and "act as" in said:
        return "permission", DENIED, _may_act_as(account[0], project)
    return "other", REFUSED, ""


def _forbidden(answer: Answer, service: Service) -> tuple[Kind, str, str]:
    said, project = answer.message, service.project
    consumer = str(answer.info.get("consumer", ""))
    if answer.reason == "SERVICE_DISABLED" or "it is disabled" in said:
        if consumer == GCLOUD_ITSELF:
            fix = f"run: gcloud auth application-default set-quota-project {project}"
            return "disabled", DISABLED, fix
        return (
            "disabled",
            DISABLED,
            f"run: gcloud services enable {service.api} --project {project}",
        )
    if answer.reason == "BILLING_DISABLED" or "billing" in said.lower():
        return (
            "disabled",
            "SW3004",
            f"run: gcloud billing projects link {project} --billing-account ACCOUNT "
            "(gcloud billing accounts list shows them)",
        )
    if answer.reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT" or "authentication scopes" in said:
        scope = "https://www.googleapis.com/auth/cloud-platform"
        return "credentials", UNACCEPTED, f"run: {LOGIN} --scopes={scope}"
    if answer.reason == "RATE_LIMIT_EXCEEDED":
        return "other", REFUSED, ""
    if (account := _SERVICE_ACCOUNT.search(said)) and "act as" in said:
        return "permission", DENIED, _may_act_as(account[0], project)
    if answer.reason in ("CONSUMER_INVALID", "USER_PROJECT_DENIED"):
        fix = f"check the project's id, {project!r}: gcloud projects list"
        return "permission", DENIED, fix
    return (
        "permission",
        DENIED,
        f"check that the project is {project!r}, and let its owner run: "
        f"gcloud projects add-iam-policy-binding {project} --member=user:YOU --role={service.role}",
    )


def _may_act_as(account: str, project: str) -> str:
    return (
        f"let its owner run: gcloud iam service-accounts add-iam-policy-binding {account} "
        f"--project {project} --member=user:YOU --role=roles/iam.serviceAccountUser"
    )


def _missing(service: Service, asked: str) -> str:
    if "/customJobs/" in asked:
        where = f"--project={service.project} --region={service.region}"
        return f"it may have been deleted; see what there is: gcloud ai custom-jobs list {where}"
    where = f" and the region, {service.region!r}" if service.region else ""
    return f"check the project's id, {service.project!r}{where}: gcloud projects list"


def _detail(details: tuple[dict[str, Any], ...], kind: str) -> dict[str, Any]:
    for detail in details:
        if str(detail.get("@type", "")).endswith(f"google.rpc.{kind}"):
            return detail
    return {}


def _retry_after(
    details: tuple[dict[str, Any], ...], header: str | None, now: datetime
) -> float | None:
    asked = []
    delay = re.fullmatch(
        r"(\d{1,9}(\.\d+)?)s", str(_detail(details, "RetryInfo").get("retryDelay"))
    )
    if delay:
        asked.append(float(delay[1]))
    if header and (seconds := re.fullmatch(r"\s*(\d{1,9})\s*", header)):
        asked.append(float(seconds[1]))
    elif header:
        try:
            at = parsedate_to_datetime(header)
        except (ValueError, TypeError, IndexError, OverflowError):
            pass
        else:
            at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
            asked.append(max(0.0, (at - now).total_seconds()))
    return max(asked, default=None)


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
