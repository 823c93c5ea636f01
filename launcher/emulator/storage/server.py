"""The emulated Cloud Storage's JSON API: what gcsfs and google-cloud-storage use of it.

Clients find it through ``STORAGE_EMULATOR_HOST``. Every precondition counts, as it does in
Cloud Storage, and requests can be made to fail on purpose (see launcher.emulator.storage.faults).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from launcher.emulator.logs import timestamp
from launcher.emulator.storage.faults import Faults
from launcher.emulator.storage.objects import (
    Bucket,
    ConditionFailed,
    Conditions,
    NoSuchThing,
    NotChanged,
    Object,
    Objects,
    Refused,
    Taken,
)
from launcher.emulator.storage.uploads import Uploads, read_json

PAGE = 1000
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
CHUNK = 2**20
# What an object's owner may say about it.
FIELDS = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "customTime",
    "metadata",
)


class OutOfRange(Exception):
    """A read asked for bytes behind the end."""


class Storage:
    """The handlers of the API.

    Args:
        objects: what is served.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads = Uploads(objects)
        self._hosts = {*LOCAL_NAMES}
        self.faults = Faults()

    def app(self, address: str = "127.0.0.1") -> ASGIApp:
        """Returns the application to serve on ``address``, which requests may name then."""
        self._hosts.add(address)
        routes = [
            Route("/emulator/v1/faults", self._faults, methods=["GET", "POST", "DELETE"]),
            Route("/{path:path}", self._answer, methods=METHODS),
        ]
        return self.faults.around(Starlette(routes=routes))

    async def _faults(self, request: Request) -> Response:
        """GET lists the rules, POST adds one, DELETE forgets all."""
        if refusal := self._refusal(request):
            return refusal
        try:
            if request.method == "POST":
                self.faults.add(await read_json(request))
            elif request.method == "DELETE":
                self.faults.clear()
        except Refused as error:
            return _error(400, "invalid", str(error))
        return JSONResponse({"rules": self.faults.rules()})

    async def _answer(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
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
        except OutOfRange:
            return _error(416, "requestedRangeNotSatisfiable", "The requested range is empty.")
        except Taken as error:
            return _error(409, "conflict", str(error))
        except Refused as error:
            return _error(400, "invalid", str(error))
        except ClientDisconnect:
            return Response(status_code=499)

    def _refusal(self, request: Request) -> Response | None:
        """Keeps web pages out: they cannot hide their Origin, nor a rebound name."""
        host = request.headers.get("host", "").rpartition(":")
        if "origin" in request.headers or (host[0] or host[2]) not in self._hosts:
            return _error(403, "forbidden", "Only local programs may use the emulator.")
        return None

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
                return JSONResponse(_bucket_resource(found))
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
                conditions = _conditions(request)
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
        items = [_bucket_resource(bucket) for bucket in found]
        return JSONResponse({"kind": "storage#buckets", "items": items})

    async def _create_bucket(self, request: Request) -> Response:
        body = await read_json(request)
        name, location = str(body.get("name", "")), str(body.get("location") or "US").upper()
        made = await run_in_threadpool(self._objects.create_bucket, name, location)
        return JSONResponse(_bucket_resource(made))

    # --- objects --------------------------------------------------------------------

    async def _list(self, request: Request, bucket: str) -> Response:
        query = request.query_params
        token = query.get("pageToken")
        listing = await run_in_threadpool(
            self._objects.list,
            bucket,
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            start=_position(token) if token else query.get("startOffset", ""),
            end=query.get("endOffset", ""),
            limit=min(PAGE, _number(query.get("maxResults"), "maxResults") or PAGE),
        )
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if listing.objects:
            answer["items"] = [_resource(request, one) for one in listing.objects]
        if listing.prefixes:
            answer["prefixes"] = listing.prefixes
        if listing.next is not None:
            answer["nextPageToken"] = base64.urlsafe_b64encode(listing.next.encode()).decode()
        return JSONResponse(answer)

    async def _get(self, request: Request, bucket: str, name: str) -> Response:
        found = await run_in_threadpool(self._objects.get, bucket, name, _conditions(request))
        _require_generation(request, found)
        return JSONResponse(_resource(request, found))

    async def _media(self, request: Request, bucket: str, name: str) -> Response:
        found, file = await run_in_threadpool(
            self._objects.open, bucket, name, _conditions(request)
        )
        try:
            _require_generation(request, found)
            first, last, partial = _range(request.headers.get("range"), found.size)
        except BaseException:
            file.close()
            raise
        headers = {
            "Content-Length": str(last + 1 - first),
            "Accept-Ranges": "bytes",
            "ETag": f'"{_etag(found)}"',
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
        body = await read_json(request)
        fields = {key: value for key, value in body.items() if key in FIELDS}
        changed = await run_in_threadpool(
            self._objects.patch, bucket, name, fields, _conditions(request)
        )
        return JSONResponse(_resource(request, changed))

    async def _compose(self, request: Request, bucket: str, name: str) -> Response:
        body = await read_json(request)
        try:
            sources = [
                (
                    str(source["name"]),
                    Conditions(_number(_source_generation(source), "ifGenerationMatch")),
                )
                for source in body.get("sourceObjects", [])
            ]
            fields = _fields(body.get("destination", {}))
        except (TypeError, KeyError, AttributeError) as error:
            raise Refused(f"The compose request is not understood: {error!r}") from None
        made = await run_in_threadpool(
            self._objects.compose, bucket, sources, name, fields, _conditions(request)
        )
        return JSONResponse(_resource(request, made))

    async def _move(self, request: Request, bucket: str, name: str, target: str) -> Response:
        source = _conditions(request, "ifSource")
        moved = await run_in_threadpool(
            self._objects.move, bucket, name, target, source, _conditions(request)
        )
        return JSONResponse(_resource(request, moved))

    async def _copy(
        self, request: Request, how: str, source: tuple[str, str], target: tuple[str, str]
    ) -> Response:
        fields = _fields(await read_json(request))
        made = await run_in_threadpool(
            self._objects.copy,
            source,
            target,
            fields,
            _conditions(request, "ifSource"),
            _conditions(request),
        )
        resource = _resource(request, made)
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
            return JSONResponse(_resource(request, made))
        conditions = _conditions(request)
        kind = query.get("uploadType")
        if kind == "resumable":
            session = await self._uploads.begin(request, bucket, _fields, conditions)
            where = request.url.include_query_params(upload_id=session)
            return Response(status_code=200, headers={"Location": str(where)})
        if kind == "multipart":
            made = await self._uploads.multipart(request, bucket, _fields, conditions)
        elif kind == "media":
            made = await self._uploads.media(request, bucket, conditions)
        else:
            raise Refused(f"uploadType {kind!r} is not supported.")
        return JSONResponse(_resource(request, made))


# --- how things are said -----------------------------------------------------------


def _bucket_resource(bucket: Bucket) -> dict[str, Any]:
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "projectNumber": "0",
        "location": bucket.location,
        "locationType": "region",
        "storageClass": "STANDARD",
        "timeCreated": _time(bucket.created),
        "updated": _time(bucket.created),
        "metageneration": "1",
        "etag": "CAE=",
    }


def _resource(request: Request, one: Object) -> dict[str, Any]:
    base = f"{request.url.scheme}://{request.url.netloc}"
    where = f"b/{one.bucket}/o/{quote(one.name, safe='')}"
    return {
        **one.fields,
        "kind": "storage#object",
        "id": f"{one.bucket}/{one.name}/{one.generation}",
        "selfLink": f"{base}/storage/v1/{where}",
        "mediaLink": f"{base}/download/storage/v1/{where}?generation={one.generation}&alt=media",
        "name": one.name,
        "bucket": one.bucket,
        "generation": str(one.generation),
        "metageneration": str(one.metageneration),
        "storageClass": "STANDARD",
        "size": str(one.size),
        "md5Hash": one.md5,
        "crc32c": one.crc32c,
        "etag": _etag(one),
        "timeCreated": _time(one.created),
        "updated": _time(one.updated),
        "timeStorageClassUpdated": _time(one.created),
    }


def _time(moment: float) -> str:
    return timestamp(datetime.fromtimestamp(moment, timezone.utc))


def _etag(one: Object) -> str:
    text = f"{one.generation}.{one.metageneration}"
    return base64.b64encode(text.encode()).decode()


def _error(code: int, reason: str, message: str) -> Response:
    errors = [{"domain": "global", "reason": reason, "message": message}]
    return JSONResponse({"error": {"code": code, "message": message, "errors": errors}}, code)


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key in FIELDS and value is not None}


# --- how requests are read ----------------------------------------------------------


def _conditions(request: Request, prefix: str = "if") -> Conditions:
    query = request.query_params

    def asked(name: str) -> int | None:
        return _number(query.get(prefix + name), prefix + name)

    return Conditions(
        asked("GenerationMatch"),
        asked("GenerationNotMatch"),
        asked("MetagenerationMatch"),
        asked("MetagenerationNotMatch"),
    )


def _source_generation(source: dict[str, Any]) -> Any:
    return source.get("objectPreconditions", {}).get("ifGenerationMatch")


def _require_generation(request: Request, found: Object) -> None:
    asked = _number(request.query_params.get("generation"), "generation")
    if asked not in (None, found.generation):
        raise NoSuchThing(f"No such object: {found.bucket}/{found.name}#{asked}")


def _number(value: Any, name: str) -> int | None:
    if value in (None, ""):
        return None
    if not re.fullmatch(r"\d{1,19}", str(value)):
        raise Refused(f"Invalid value for {name}: {str(value)[:40]!r}")
    return int(value)


def _position(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Refused("Invalid pageToken.") from None


def _range(header: str | None, size: int) -> tuple[int, int, bool]:
    """Returns the first and the last byte that are wanted, and whether that is a part."""
    found = RANGE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return 0, size - 1, False
    if found[1] == "":
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
    if first > last:
        raise OutOfRange
    return first, last, True


async def _pieces(file: BinaryIO, first: int, size: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(first)
        while size > 0:
            piece = await run_in_threadpool(file.read, min(CHUNK, size))
            size -= len(piece)
            yield piece
