"""The emulator's HTTP API: CustomJobs, Cloud Logging's entries, secrets, and its own routes."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from launcher.emulator.api import entries, secretmanager
from launcher.emulator.api.filters import parse_filter
from launcher.emulator.api.secretmanager import Secrets
from launcher.emulator.jobs.registry import Registry, job_name
from launcher.emulator.market.incidents import DEFAULT_NOTICE
from launcher.emulator.resources import customjobs, readmask, unserved
from launcher.emulator.resources.customjobs import Json
from launcher.emulator.resources.errors import ApiError, invalid_argument, not_found
from launcher.emulator.token import Token
from launcher.job.durations import parse_duration

BODY_LIMIT = 8 * 2**20  # bytes
MAX_PAGE = 1000
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE")
VERSIONS = ("v1", "v1beta1")  # of Vertex AI's API; CustomJobs are the same in both
LOCATION = "/projects/{project}/locations/{location}"
JOBS = LOCATION + "/customJobs"
OPERATIONS = LOCATION + "/operations"
EXTRA = "/emulator/v1/projects/{project}/locations/{location}/customJobs/{job_id}"
NUMBER = re.compile(r"[0-9]{1,19}")

WANTED = (
    "The emulator wants the token that is in its state directory, as Authorization: Bearer TOKEN; "
    "one that is started with --open wants none."
)

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The handlers of all routes.

    Args:
        registry: the jobs.
        secrets: what Secret Manager holds.
        token: what every request has to show; None for an API that is open.
    """

    def __init__(self, registry: Registry, secrets: Secrets, token: Token | None) -> None:
        self._registry = registry
        self._secrets = secrets
        self._token = token

    def app(self) -> Starlette:
        """Returns the application to serve."""
        return Starlette(
            routes=self.routes(),
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
        )

    def routes(self) -> list[Route]:
        """Returns its routes, which may be served beside others."""
        versioned: list[tuple[str, str, Handler]] = [
            ("POST", JOBS, self.create),
            ("GET", JOBS, self.list),
            ("POST", JOBS + "/{job_id}:cancel", self.cancel),
            ("GET", JOBS + "/{job_id}", self.get),
            ("DELETE", JOBS + "/{job_id}", self.delete),
            ("GET", OPERATIONS + "/{job_id}", self.operation),
            *((verb, LOCATION + "/{rest:path}", self.unserved) for verb in VERBS),
        ]
        routes: list[tuple[str, str, Handler]] = [
            *((verb, f"/{api}{path}", one) for api in VERSIONS for verb, path, one in versioned),
            ("POST", "/v2/entries:list", self.entries),
            ("GET", EXTRA + "/replicas", self.replicas),
            ("POST", EXTRA + "/replicas/{replica}:preempt", self.preempt),
            ("POST", EXTRA + "/replicas/{replica}:restore", self.restore),
            *secretmanager.Handlers(self._secrets, _json).routes(),
        ]
        return [
            Route(path, self._guarded(handler), methods=[verb]) for verb, path, handler in routes
        ]

    async def create(self, request: Request) -> Response:
        """POST customJobs."""
        body = await _json(request)
        return _job(
            request,
            self._registry.create(
                request.path_params["project"], request.path_params["location"], body
            ),
        )

    async def list(self, request: Request) -> Response:
        """GET customJobs, with filter, readMask, pageSize and pageToken."""
        jobs = self._registry.jobs(request.path_params["project"], request.path_params["location"])
        expression = parse_filter(request.query_params.get("filter", ""))
        for term in expression.terms():
            _job_field({}, term.field)
        jobs = [job for job in jobs if expression.holds(partial(_job_field, job))]
        after = request.query_params.get("pageToken", "")
        if after and not NUMBER.fullmatch(after):
            raise invalid_argument(f"pageToken {after!r} was not made by this service.")
        # Newest first, so that a page goes on below the last id whatever has come since.
        jobs = [job for job in jobs if not after or _id(job) < int(after)]
        size = _page_size(request.query_params.get("pageSize"))
        page = jobs[:size]
        mask = readmask.parse(request.query_params.get("readMask"))
        as_integers = _enums_as_integers(request)
        encoded = [customjobs.encode(job, as_integers) for job in page]
        answer: Json = {"customJobs": [readmask.masked(job, mask) for job in encoded]}
        if len(jobs) > size:
            answer["nextPageToken"] = str(_id(page[-1]))
        return JSONResponse(answer)

    async def get(self, request: Request) -> Response:
        """GET one job."""
        return _job(request, self._registry.get(_name(request)))

    async def cancel(self, request: Request) -> Response:
        """POST :cancel; the job ends soon after."""
        await _json(request)
        self._registry.cancel(_name(request))
        return JSONResponse({})

    async def delete(self, request: Request) -> Response:
        """DELETE one job; answers an operation that is already done."""
        name = _name(request)
        await self._registry.delete(name)
        return JSONResponse(_deletion(request, name))

    async def operation(self, request: Request) -> Response:
        """GET the operation that a deletion has answered; it is done."""
        name = _name(request)
        self._registry.require_deleted(name)
        return JSONResponse(_deletion(request, name))

    async def unserved(self, request: Request) -> Response:
        """Anything else of a location: what is Vertex AI's is refused by its name."""
        collection = re.split("[/:]", request.path_params["rest"])[0]
        unserved.check_collection(collection)
        raise not_found(f"{request.method} {request.url.path} is not part of this API.")

    async def entries(self, request: Request) -> Response:
        """POST entries:list of Cloud Logging."""
        query = entries.parse_query(await _json(request))
        # A log may be long; the VMs must not wait for it to be read.
        return JSONResponse(await run_in_threadpool(entries.answer, query, self._registry.logs))

    async def replicas(self, request: Request) -> Response:
        """The replicas of a job, as the emulator sees them."""
        return JSONResponse(self._registry.replicas(_name(request)))

    async def preempt(self, request: Request) -> Response:
        """Takes a VM away: ``{"notice": "5s"}``, or ``{"silent": true}``."""
        body = await _json(request)
        if unknown := sorted(set(body) - {"notice", "silent"}):
            raise invalid_argument(f'Unknown name "{unknown[0]}"; known are notice and silent.')
        silent = body.get("silent", False)
        if not isinstance(silent, bool):
            raise invalid_argument("silent must be true or false.")
        if silent and "notice" in body:
            raise invalid_argument("A silent loss has no notice: give either notice or silent.")
        try:
            notice = parse_duration(body["notice"]) if "notice" in body else DEFAULT_NOTICE
        except ValueError as error:
            raise invalid_argument(f"notice {error}.") from None
        name, replica = _name(request), request.path_params["replica"]
        self._registry.preempt(name, replica, None if silent else notice)
        return JSONResponse({})

    async def restore(self, request: Request) -> Response:
        """Gives a VM back."""
        await _json(request)
        self._registry.restore(_name(request), request.path_params["replica"])
        return JSONResponse({})

    def _guarded(self, handler: Handler) -> Handler:
        """Lets in who has the token: this API runs commands."""

        async def checked(request: Request) -> Response:
            shown = request.headers.get("authorization", "")
            try:
                if self._token and not self._token.admits(shown):
                    raise ApiError(401, "UNAUTHENTICATED", WANTED)
                return await handler(request)
            except ApiError as error:
                return JSONResponse(error.body(), error.code)

        return checked


def _job(request: Request, job: Json) -> Response:
    return JSONResponse(customjobs.encode(job, _enums_as_integers(request)))


def _deletion(request: Request, name: str) -> Json:
    """The operation of a job's deletion, which has the job's number."""
    version = request.url.path.split("/")[1]
    kind = f"type.googleapis.com/google.cloud.aiplatform.{version}.DeleteOperationMetadata"
    return {
        "name": name.replace("/customJobs/", "/operations/"),
        "metadata": {"@type": kind},
        "done": True,
        "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
    }


def _id(job: Json) -> int:
    return int(job["name"].rpartition("/")[2])


def _name(request: Request) -> str:
    parameters = request.path_params
    return job_name(parameters["project"], parameters["location"], parameters["job_id"])


JOB_FIELDS = {
    "state": "state",
    "display_name": "displayName",
    "displayName": "displayName",
    "create_time": "createTime",
    "createTime": "createTime",
    "update_time": "updateTime",
    "updateTime": "updateTime",
}


def _job_field(job: Json, field: str) -> str | None:
    if field.startswith("labels."):
        value = job.get("labels", {}).get(field.removeprefix("labels."))
    elif field in JOB_FIELDS:
        value = job.get(JOB_FIELDS[field])
    else:
        raise invalid_argument(f"filter: unknown field {field}.")
    return None if value is None else str(value)


def _page_size(text: str | None) -> int:
    if text in (None, "", "0"):
        return MAX_PAGE
    if not NUMBER.fullmatch(str(text)):
        raise invalid_argument(f"pageSize must be a number, got {text!r}.")
    return min(int(str(text)), MAX_PAGE)


def _enums_as_integers(request: Request) -> bool:
    # Google's client sends $alt=json;enum-encoding=int.
    query = request.query_params
    return "enum-encoding=int" in query.get("$alt", "") + query.get("alt", "")


async def _json(request: Request) -> dict[str, Any]:
    """The body as an object; an empty body is an empty object."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise ApiError(413, "INVALID_ARGUMENT", f"The body is larger than {BODY_LIMIT} bytes.")
    try:
        value = json.loads(data or b"{}")
        # A UnicodeEncodeError for half a character: no answer could say it, nor any list it is in.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise invalid_argument("The body must be a JSON object.")
    return value


async def _http_error(request: Request, error: Exception) -> Response:
    refusal = not_found(f"{request.method} {request.url.path} is not part of this API.")
    return JSONResponse(refusal.body(), refusal.code)


async def _internal_error(request: Request, error: Exception) -> Response:
    failure = ApiError(500, "INTERNAL", f"The emulator failed: {error!r}")
    return JSONResponse(failure.body(), failure.code)
