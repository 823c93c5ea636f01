"""What the JSON API is asked of buckets."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from launcher.emulator.storage import answers, wire
from launcher.emulator.storage.answers import endpoint, respond
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.resource import Bucket

LOCATION = "US"


class BucketRequests:
    """The handlers of requests to buckets; each raises StorageError.

    Args:
        objects: what is served.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def list(self, request: Request) -> Response:
        """Answers with a page of buckets."""
        query = request.query_params
        listing = wire.listing(query)
        found = await run_in_threadpool(self._objects.buckets, listing.prefix, listing.start[0])
        return respond(request, answers.bucket_page(found, listing.limit, endpoint(request)))

    async def create(self, request: Request) -> Response:
        """Makes a bucket."""
        body = await wire.read_json(request)
        name, location = str(body.get("name", "")), str(body.get("location") or LOCATION).upper()
        made = await run_in_threadpool(
            self._objects.create_bucket, name, location, wire.settings(body)
        )
        return _bucket(request, made)

    async def get(self, request: Request, name: str) -> Response:
        """Answers with a bucket."""
        found = await run_in_threadpool(self._objects.bucket, name, wire.conditions(request))
        return _bucket(request, found)

    async def layout(self, request: Request, name: str) -> Response:
        """Answers with where a bucket is and whether its names are flat."""
        found = await run_in_threadpool(self._objects.bucket, name)
        return respond(request, answers.storage_layout(found))

    async def change(self, request: Request, name: str, whole: bool) -> Response:
        """Changes what a request says of a bucket, or replaces the whole of it."""
        settings = wire.settings(await wire.read_json(request))
        conditions = wire.conditions(request)
        changed = await run_in_threadpool(
            self._objects.change_bucket, name, settings, conditions, whole
        )
        return _bucket(request, changed)

    async def delete(self, request: Request, name: str) -> Response:
        """Removes a bucket."""
        await run_in_threadpool(self._objects.delete_bucket, name, wire.conditions(request))
        return Response(status_code=204)


def _bucket(request: Request, bucket: Bucket) -> Response:
    return respond(request, answers.bucket_resource(bucket, endpoint(request)))
