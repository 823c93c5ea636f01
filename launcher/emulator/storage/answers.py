"""How Cloud Storage's JSON API describes buckets, objects, listings and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from launcher.emulator.storage import masks
from launcher.emulator.storage.errors import StorageError
from launcher.emulator.storage.listing import Listing
from launcher.emulator.storage.resource import Bucket, Object
from launcher.emulator.storage.wire import Json, page_token

MULTI_REGIONS = ("ASIA", "EU", "US")
DUAL_REGIONS = ("ASIA1", "EUR4", "EUR5", "EUR7", "EUR8", "NAM4")


def respond(request: Request, answer: Json) -> Response:
    """An answer, or as much of it as the request's ``fields`` selects. Raises Refused."""
    selected = masks.selected(answer, request.query_params.get("fields"))
    etag = {"ETag": answer["etag"]} if "etag" in answer else {}
    return JSONResponse(selected, headers=etag)


def bucket_resource(bucket: Bucket, endpoint: str) -> Json:
    """A bucket, as the API at ``endpoint`` describes it."""
    location = _location_type(bucket)
    access = bucket.settings.get("iamConfiguration") or {}
    return {
        **bucket.settings,
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "selfLink": f"{endpoint}/storage/v1/b/{bucket.name}",
        "projectNumber": "0",
        "location": bucket.location,
        "locationType": location,
        **({} if location == "region" else {"rpo": "DEFAULT"}),
        "iamConfiguration": {
            "publicAccessPrevention": "inherited",
            "uniformBucketLevelAccess": {"enabled": False},
            **access,
        },
        "storageClass": bucket.storage_class,
        "timeCreated": _time(bucket.created),
        "updated": _time(bucket.updated),
        "metageneration": str(bucket.metageneration),
        "etag": bucket.etag,
    }


def bucket_page(buckets: Sequence[Bucket], size: int, endpoint: str) -> Json:
    """A page of at most ``size`` buckets."""
    items = [bucket_resource(one, endpoint) for one in buckets[:size]]
    answer: Json = {"kind": "storage#buckets", **({"items": items} if items else {})}
    if len(buckets) > size:
        answer["nextPageToken"] = page_token((buckets[size].name, 0))
    return answer


def storage_layout(bucket: Bucket) -> Json:
    """Where a bucket is and that its names are flat."""
    return {
        "kind": "storage#storageLayout",
        "bucket": bucket.name,
        "location": bucket.location,
        "locationType": _location_type(bucket),
        "hierarchicalNamespace": {"enabled": False},
    }


def object_resource(one: Object, endpoint: str) -> Json:
    """An object, as the API at ``endpoint`` describes it."""
    where = f"b/{one.bucket}/o/{quote(one.name, safe='')}"
    media = f"{endpoint}/download/storage/v1/{where}?generation={one.generation}&alt=media"
    described = {
        **one.fields,
        "kind": "storage#object",
        "id": f"{one.bucket}/{one.name}/{one.generation}",
        "selfLink": f"{endpoint}/storage/v1/{where}",
        "mediaLink": media,
        "name": one.name,
        "bucket": one.bucket,
        "generation": str(one.generation),
        "metageneration": str(one.metageneration),
        "storageClass": one.storage_class,
        "size": str(one.size),
        "md5Hash": one.md5,
        "crc32c": one.crc32c,
        "etag": one.etag,
        "timeCreated": _time(one.created),
        "updated": _time(one.updated),
        "timeFinalized": _time(one.created),
        "timeStorageClassUpdated": _time(one.created),
        "timeDeleted": None if one.deleted is None else _time(one.deleted),
    }
    return {name: value for name, value in described.items() if value is not None}


def object_page(listing: Listing, endpoint: str) -> Json:
    """A page of a listing."""
    answer: Json = {"kind": "storage#objects"}
    if listing.objects:
        answer["items"] = [object_resource(one, endpoint) for one in listing.objects]
    if listing.prefixes:
        answer["prefixes"] = listing.prefixes
    if listing.next is not None:
        answer["nextPageToken"] = page_token(listing.next)
    return answer


def rewritten(made: Object, endpoint: str) -> Json:
    """The end of a rewrite, which takes one request here, whatever its size."""
    return {
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": str(made.size),
        "objectSize": str(made.size),
        "done": True,
        "resource": object_resource(made, endpoint),
    }


def problem(error: StorageError) -> Response:
    """What a client is told instead of an answer."""
    if error.status == 304:
        return Response(status_code=304)
    return failure(error.status, error.reason, str(error), error.headers)


def failure(
    status: int, reason: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error of the API."""
    errors = [{"domain": "global", "reason": reason, "message": message}]
    body = {"error": {"code": status, "message": message, "errors": errors}}
    return JSONResponse(body, status, headers)


def _location_type(bucket: Bucket) -> str:
    if bucket.location in MULTI_REGIONS:
        return "multi-region"
    return "dual-region" if bucket.location in DUAL_REGIONS else "region"


def endpoint(request: Request) -> str:
    """Where the request has found the API."""
    return f"{request.url.scheme}://{request.url.netloc}"


def _time(moment: float) -> str:
    utc = datetime.fromtimestamp(moment, timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # RFC 3339
