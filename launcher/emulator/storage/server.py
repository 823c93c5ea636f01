"""The emulated Cloud Storage: its JSON API, its XML API of objects, and batches.

Clients find it through ``STORAGE_EMULATOR_HOST``. Every precondition counts, as it does in
Cloud Storage; what is not served is refused by its name (launcher.emulator.storage.unserved); and
requests can be made to fail on purpose (launcher.emulator.storage.faults).
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from launcher.emulator.storage import answers, batches, unserved, xml_requests
from launcher.emulator.storage.bucket_requests import BucketRequests
from launcher.emulator.storage.errors import Refused, StorageError
from launcher.emulator.storage.faults import Faults
from launcher.emulator.storage.object_requests import ObjectRequests
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.wire import read_json
from launcher.emulator.storage.xml_requests import XmlRequests

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
# What paths begin with; anything else is a bucket's name, and the XML API.
JSON_ROOTS = ("storage", "download", "upload", "resumable", "batch")


class Storage:
    """The handlers of the API.

    Args:
        objects: what is served.
    """

    def __init__(self, objects: Objects) -> None:
        self._buckets = BucketRequests(objects)
        self._objects = ObjectRequests(objects)
        self._xml = XmlRequests(objects)
        self.faults = Faults()

    def app(self) -> ASGIApp:
        """Returns the application to serve."""
        routes = [
            Route("/emulator/v1/faults", self._faults, methods=["GET", "POST", "DELETE"]),
            Route("/{path:path}", self._answer, methods=METHODS),
        ]
        return self.faults.around(Starlette(routes=routes))

    async def _faults(self, request: Request) -> Response:
        """GET lists the rules, POST adds one, DELETE forgets all."""
        try:
            if request.method == "POST":
                self.faults.add(await read_json(request))
            elif request.method == "DELETE":
                self.faults.clear()
        except Refused as error:
            return answers.problem(error)
        return JSONResponse({"rules": self.faults.rules()})

    async def _answer(self, request: Request) -> Response:
        # Not the decoded path: objects' names hold slashes, encoded.
        raw = bytes(request.scope["raw_path"]).decode("ascii").removeprefix("/")
        path = [unquote(part) for part in raw.split("/")]
        json = path[0] in JSON_ROOTS
        try:
            unserved.check_request(request.query_params, request.headers)
            if json:
                return await self._json(request, path)
            return await self._xml.answer(request, path[0], "/".join(path[1:]))
        except StorageError as error:
            return answers.problem(error) if json else xml_requests.problem(error, request)
        except RecursionError:
            return answers.problem(Refused("The request is nested too deeply."))
        except ClientDisconnect:
            return Response(status_code=499)

    async def _json(self, request: Request, path: list[str]) -> Response:
        objects = self._objects
        verb = "GET" if request.method == "HEAD" else request.method
        if verb == "POST":  # who can send nothing else says what is meant
            verb = request.headers.get("x-http-method-override", verb).upper()
        path = path[1:] if path[0] == "resumable" else path  # gcloud's and gsutil's uploads
        match verb, *path:
            case "POST", "batch", "storage", "v1":
                return await batches.answered(request, self._answer)
            case _, "storage", "v1", "b", *rest if len(rest) < 2:
                return await self._bucket(request, verb, rest)
            case "GET", "storage", "v1", "b", bucket, "storageLayout":
                return await self._buckets.layout(request, bucket)
            case "GET", "storage", "v1", "b", bucket, "o":
                return await objects.list(request, bucket)
            case "GET", "storage", "v1", "b", bucket, "o", name:
                return await objects.get(request, bucket, name)
            case "GET", "download", "storage", "v1", "b", bucket, "o", name:
                return await objects.media(request, bucket, name)
            case "DELETE", "storage", "v1", "b", bucket, "o", name:
                return await objects.delete(request, bucket, name)
            case "PATCH" | "PUT", "storage", "v1", "b", bucket, "o", name:
                return await objects.change(request, bucket, name, verb == "PUT")
            case "POST", "storage", "v1", "b", bucket, "o", name, "compose":
                return await objects.compose(request, bucket, name)
            case "POST", "storage", "v1", "b", bucket, "o", name, "moveTo", "o", target:
                return await objects.move(request, bucket, name, target)
            case "POST", "storage", "v1", "b", bucket, "o", name, how, "b", other, "o", target if (
                how in ("rewriteTo", "copyTo")
            ):
                return await objects.copy(request, how, (bucket, name), (other, target))
            case _, "upload", "storage", "v1", "b", bucket, "o":
                return await objects.upload(request, verb, bucket)
            case _, "storage", "v1", *rest:
                unserved.check_path(rest)
        where = f"{request.method} /{'/'.join(path)}"
        return answers.failure(404, "notFound", f"{where} is not part of this API.")

    async def _bucket(self, request: Request, verb: str, rest: list[str]) -> Response:
        match [verb, *filter(None, rest)]:
            case ["GET"]:
                return await self._buckets.list(request)
            case ["POST"]:
                return await self._buckets.create(request)
            case ["GET", name]:
                return await self._buckets.get(request, name)
            case ["PATCH" | "PUT", name]:
                return await self._buckets.change(request, name, verb == "PUT")
            case ["DELETE", name]:
                return await self._buckets.delete(request, name)
        return answers.failure(405, "methodNotAllowed", f"{verb} does nothing to buckets.")
