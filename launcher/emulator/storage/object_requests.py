"""What the JSON API is asked of objects."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from launcher.emulator.storage import answers, wire
from launcher.emulator.storage.answers import endpoint, respond
from launcher.emulator.storage.downloads import download
from launcher.emulator.storage.errors import Ended, Refused
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.resource import Object
from launcher.emulator.storage.uploads import Uploads


class ObjectRequests:
    """The handlers of requests to objects; each raises StorageError.

    Args:
        objects: what is served.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads = Uploads(objects)

    async def list(self, request: Request, bucket: str) -> Response:
        """Answers with a page of a bucket's objects."""
        query = wire.listing(request.query_params)
        listing = await run_in_threadpool(self._objects.list, bucket, query)
        return respond(request, answers.object_page(listing, endpoint(request)))

    async def get(self, request: Request, bucket: str, name: str) -> Response:
        """Answers with an object's description, or with its content (``alt=media``)."""
        alt = request.query_params.get("alt", "json")
        if alt == "media":
            return await self.media(request, bucket, name)
        if alt != "json":
            raise Refused(f"Invalid value for alt: {alt[:40]!r}")
        found = await run_in_threadpool(
            self._objects.get, bucket, name, wire.conditions(request), wire.generation(request)
        )
        return _object(request, found)

    async def media(self, request: Request, bucket: str, name: str) -> Response:
        """Answers with an object's content."""
        found, file = await run_in_threadpool(
            self._objects.open, bucket, name, wire.conditions(request), wire.generation(request)
        )
        return download(request, found, file, found.etag)

    async def change(self, request: Request, bucket: str, name: str, whole: bool) -> Response:
        """Changes what a request says of an object, or replaces the whole of it."""
        changes = wire.changes(await wire.read_json(request))
        changed = await run_in_threadpool(
            self._objects.patch,
            bucket,
            name,
            changes,
            wire.conditions(request),
            wire.generation(request),
            whole,
        )
        return _object(request, changed)

    async def delete(self, request: Request, bucket: str, name: str) -> Response:
        """Removes an object."""
        await run_in_threadpool(
            self._objects.delete, bucket, name, wire.conditions(request), wire.generation(request)
        )
        return Response(status_code=204)

    async def compose(self, request: Request, bucket: str, name: str) -> Response:
        """Makes one object of several."""
        sources, fields = wire.composition(bucket, await wire.read_json(request))
        deleting = wire.flag(request.query_params, "deleteSourceObjects")
        made = await run_in_threadpool(
            self._objects.compose, sources, bucket, name, fields, wire.conditions(request)
        )
        if deleting:
            for one in {one.name for one in sources} - {name}:
                await run_in_threadpool(self._objects.delete, bucket, one)
        return _object(request, made)

    async def move(self, request: Request, bucket: str, name: str, target: str) -> Response:
        """Renames an object."""
        source = wire.source(request, bucket, name)
        conditions = wire.conditions(request)
        moved = await run_in_threadpool(self._objects.move, source, target, conditions)
        return _object(request, moved)

    async def copy(
        self, request: Request, how: str, source: tuple[str, str], target: tuple[str, str]
    ) -> Response:
        """Copies an object: ``copyTo`` answers with the copy, ``rewriteTo`` says how far it is."""
        if request.query_params.get("rewriteToken"):
            raise Ended("This rewriteToken is unknown: a rewrite takes one request here.")
        fields = wire.fields(await wire.read_json(request))
        made = await run_in_threadpool(
            self._objects.copy,
            wire.source(request, *source),
            *target,
            fields,
            wire.conditions(request),
        )
        if how == "copyTo":
            return _object(request, made)
        return respond(request, answers.rewritten(made, endpoint(request)))

    async def upload(self, request: Request, verb: str, bucket: str) -> Response:
        """Takes in an object's content, or a part of it."""
        query = request.query_params
        if session := query.get("upload_id"):
            return await self._resume(request, verb, session)
        if verb != "POST":
            raise Refused("upload_id is missing.")
        kind = query.get("uploadType")
        if kind == "resumable":
            session = await self._uploads.begin(request, bucket)
            where = request.url.include_query_params(upload_id=session)
            return Response(headers={"Location": str(where), "X-GUploader-UploadID": session})
        if kind == "multipart":
            made = await self._uploads.multipart(request, bucket)
        elif kind == "media":
            made = await self._uploads.media(request, bucket)
        else:
            raise Refused(f"uploadType {kind!r} is not supported.")
        return _object(request, made)

    async def _resume(self, request: Request, verb: str, session: str) -> Response:
        if verb == "DELETE":
            self._uploads.cancel(session)
            return Response(status_code=499)
        made = await self._uploads.chunk(request, session)
        if isinstance(made, Object):
            return _object(request, made)
        there = {"Range": f"bytes=0-{made - 1}"} if made else {}
        if request.headers.get("x-guploader-no-308") == "yes":
            return Response(headers={**there, "X-HTTP-Status-Code-Override": "308"})
        return Response(status_code=308, headers=there)


def _object(request: Request, one: Object) -> Response:
    return respond(request, answers.object_resource(one, endpoint(request)))
