"""The emulated Cloud Storage's JSON API: what gcsfs and google-cloud-storage use of it.

Clients find it through ``STORAGE_EMULATOR_HOST``. Every precondition counts, as it does in
Cloud Storage, and requests can be made to fail on purpose (see launcher.emulator.storage.faults).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import BinaryIO
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from launcher.emulator.storage import wire
from launcher.emulator.storage.faults import Faults
from launcher.emulator.storage.objects import (
    ConditionFailed,
    NoSuchThing,
    NotChanged,
    Object,
    Objects,
    Refused,
    Taken,
)
from launcher.emulator.storage.uploads import Uploads, read_json

PAGE = 1000
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
CHUNK = 2**20


class Storage:
    """The handlers of the API.

    Args:
        objects: what is served.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads = Uploads(objects)
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
            return _error(400, "invalid", str(error))
        return JSONResponse({"rules": self.faults.rules()})

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._dispatch(request)
        except NoSuchThing as error:
            return _error(404, "notFound", str(error.args[0]))
        except ConditionFailed:
            return _error(
                412,
                "conditionNotMet",
                "At least one of the pre-conditions you specified did not hold.",
            )
        except NotChanged:
            return Response(status_code=304)
        except wire.OutOfRange:
            return _error(416, "requestedRangeNotSatisfiable", "The requested range is empty.")
        except Taken as error:
            return _error(409, "conflict", str(error))
        except Refused as error:
            return _error(400, "invalid", str(error))
        except ClientDisconnect:
            return Response(status_code=499)

    async def _dispatch(self, request: Request) -> Response:
        # Not the decoded path: objects' names hold slashes, encoded.
        raw = bytes(request.scope["raw_path"]).decode("ascii")
        path = [unquote(part) for part in raw.strip("/").split("/")]
        match request.method, *path:
            case "GET", "storage", "v1", "b":
                return await self._list_buckets(request)
            case "POST", "storage", "v1", "b":
                return await self._create_bucket(request)
            case "GET", "storage", "v1", "b", bucket:
                found = await run_in_threadpool(self._objects.bucket, bucket)
                return JSONResponse(wire.bucket_resource(found))
            case "DELETE", "storage", "v1", "b", bucket:
                await run_in_threadpool(self._objects.delete_bucket, bucket)
                return Response(status_code=204)
            case "GET", "storage", "v1", "b", bucket, "o":
                return await self._list(request, bucket)
            case "GET", "storage", "v1", "b", bucket, "o", name:
                media = request.query_params.get("alt") == "media"
                return await (self._media if media else self._get)(request, bucket, name)
            case "GET", "download", "storage", "v1", "b", bucket, "o", name:
                return await self._media(request, bucket, name)
            case "GET", bucket, *rest if rest and bucket not in ("storage", "upload", "batch"):
                return await self._media(request, bucket, "/".join(rest))
            case "DELETE", "storage", "v1", "b", bucket, "o", name:
                conditions = wire.conditions(request.query_params)
                await run_in_threadpool(self._objects.delete, bucket, name, conditions)
                return Response(status_code=204)
            case "PATCH" | "PUT", "storage", "v1", "b", bucket, "o", name:
                return await self._patch(request, bucket, name)
            case "POST", "storage", "v1", "b", bucket, "o", name, "compose":
                return await self._compose(request, bucket, name)
            case "POST", "storage", "v1", "b", bucket, "o", name, "moveTo", "o", target:
                return await self._move(request, bucket, name, target)
            case "POST", "storage", "v1", "b", bucket, "o", name, how, "b", other, "o", target if (
                how in ("rewriteTo", "copyTo")
            ):
                return await self._copy(request, how, (bucket, name), (other, target))
            case verb, "upload", "storage", "v1", "b", bucket, "o":
                return await self._upload(request, verb, bucket)
        return _error(404, "notFound", f"{request.method} {raw} is not emulated.")

    # --- buckets --------------------------------------------------------------------

    async def _list_buckets(self, request: Request) -> Response:
        prefix = request.query_params.get("prefix", "")
        found = await run_in_threadpool(self._objects.buckets, prefix)
        items = [wire.bucket_resource(bucket) for bucket in found]
        return JSONResponse({"kind": "storage#buckets", "items": items})

    async def _create_bucket(self, request: Request) -> Response:
        body = await read_json(request)
        name, location = str(body.get("name", "")), str(body.get("location") or "US").upper()
        made = await run_in_threadpool(self._objects.create_bucket, name, location)
        return JSONResponse(wire.bucket_resource(made))

    # --- objects --------------------------------------------------------------------

    async def _list(self, request: Request, bucket: str) -> Response:
        query = request.query_params
        listing = await run_in_threadpool(
            self._objects.list,
            bucket,
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            start=wire.start(query),
            end=query.get("endOffset", ""),
            limit=min(PAGE, wire.number(query.get("maxResults"), "maxResults") or PAGE),
        )
        return JSONResponse(wire.page(listing, _endpoint(request)))

    async def _get(self, request: Request, bucket: str, name: str) -> Response:
        found = await run_in_threadpool(
            self._objects.get, bucket, name, wire.conditions(request.query_params)
        )
        wire.require_generation(request.query_params, found)
        return _object(request, found)

    async def _media(self, request: Request, bucket: str, name: str) -> Response:
        found, file = await run_in_threadpool(
            self._objects.open, bucket, name, wire.conditions(request.query_params)
        )
        try:
            wire.require_generation(request.query_params, found)
            first, last, partial = wire.byte_range(request.headers.get("range"), found.size)
        except BaseException:
            file.close()
            raise
        headers = {
            "Content-Length": str(last + 1 - first),
            "Accept-Ranges": "bytes",
            "ETag": f'"{wire.etag(found)}"',
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Metageneration": str(found.metageneration),
            "X-Goog-Stored-Content-Length": str(found.size),
            "X-Goog-Hash": f"crc32c={found.crc32c},md5={found.md5}",
        }
        if partial:
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
        kind = found.fields.get("contentType", "application/octet-stream")
        body = _pieces(file, first, last + 1 - first)
        return StreamingResponse(body, 206 if partial else 200, headers, kind)

    async def _patch(self, request: Request, bucket: str, name: str) -> Response:
        changes = wire.changes(await read_json(request))
        changed = await run_in_threadpool(
            self._objects.patch, bucket, name, changes, wire.conditions(request.query_params)
        )
        return _object(request, changed)

    async def _compose(self, request: Request, bucket: str, name: str) -> Response:
        sources, fields = wire.composition(await read_json(request))
        made = await run_in_threadpool(
            self._objects.compose,
            bucket,
            sources,
            name,
            fields,
            wire.conditions(request.query_params),
        )
        return _object(request, made)

    async def _move(self, request: Request, bucket: str, name: str, target: str) -> Response:
        source = wire.conditions(request.query_params, "ifSource")
        moved = await run_in_threadpool(
            self._objects.move, bucket, name, target, source, wire.conditions(request.query_params)
        )
        return _object(request, moved)

    async def _copy(
        self, request: Request, how: str, source: tuple[str, str], target: tuple[str, str]
    ) -> Response:
        fields = wire.fields(await read_json(request))
        made = await run_in_threadpool(
            self._objects.copy,
            source,
            target,
            fields,
            wire.conditions(request.query_params, "ifSource"),
            wire.conditions(request.query_params),
        )
        resource = wire.object_resource(made, _endpoint(request))
        if how == "copyTo":
            return JSONResponse(resource)
        return JSONResponse(
            {
                "kind": "storage#rewriteResponse",
                "totalBytesRewritten": str(made.size),
                "objectSize": str(made.size),
                "done": True,
                "resource": resource,
            }
        )

    async def _upload(self, request: Request, verb: str, bucket: str) -> Response:
        query = request.query_params
        if session := query.get("upload_id"):
            if verb == "DELETE":
                self._uploads.cancel(session)
                return Response(status_code=499)
            made = await self._uploads.chunk(request, session)
            if isinstance(made, int):  # so many bytes of it are here
                there = {"Range": f"bytes=0-{made - 1}"} if made else {}
                return Response(status_code=308, headers=there)
            return _object(request, made)
        conditions = wire.conditions(request.query_params)
        kind = query.get("uploadType")
        if kind == "resumable":
            session = await self._uploads.begin(request, bucket, conditions)
            where = request.url.include_query_params(upload_id=session)
            return Response(status_code=200, headers={"Location": str(where)})
        if kind == "multipart":
            made = await self._uploads.multipart(request, bucket, conditions)
        elif kind == "media":
            made = await self._uploads.media(request, bucket, conditions)
        else:
            raise Refused(f"uploadType {kind!r} is not supported.")
        return _object(request, made)


def _endpoint(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


def _object(request: Request, one: Object) -> Response:
    return JSONResponse(wire.object_resource(one, _endpoint(request)))


def _error(code: int, reason: str, message: str) -> Response:
    return JSONResponse(wire.error(code, reason, message), code)


async def _pieces(file: BinaryIO, first: int, size: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(first)
        while size > 0:
            piece = await run_in_threadpool(file.read, min(CHUNK, size))
            size -= len(piece)
            yield piece
