"""Cloud Storage's JSON: how requests are read, and how buckets and objects are written."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from launcher.emulator.storage.objects import (
    Bucket,
    Conditions,
    Listing,
    NoSuchThing,
    Object,
    Refused,
)

Json = dict[str, Any]
Query = Mapping[str, str]

RANGE = re.compile(r"bytes=(\d*)-(\d*)")
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


# --- how requests are read ----------------------------------------------------------


def fields(body: Json) -> Json:
    """The fields that a new object's owner gives it."""
    return {key: value for key, value in body.items() if key in FIELDS and value is not None}


def changes(body: Json) -> Json:
    """The fields that a patch changes; those that it takes away are None."""
    return {key: value for key, value in body.items() if key in FIELDS}


def number(value: Any, name: str) -> int | None:
    """A parameter that is a whole number, or None if it was not given. Raises Refused."""
    if value in (None, ""):
        return None
    if not re.fullmatch(r"\d{1,19}", str(value)):
        raise Refused(f"Invalid value for {name}: {str(value)[:40]!r}")
    return int(value)


def conditions(query: Query, prefix: str = "if") -> Conditions:
    """A request's preconditions; those of its source begin with ``ifSource``. Raises Refused."""

    def asked(name: str) -> int | None:
        return number(query.get(prefix + name), prefix + name)

    return Conditions(
        asked("GenerationMatch"),
        asked("GenerationNotMatch"),
        asked("MetagenerationMatch"),
        asked("MetagenerationNotMatch"),
    )


def require_generation(query: Query, found: Object) -> None:
    """Raises NoSuchThing when a request names another generation than the one that is there."""
    asked = number(query.get("generation"), "generation")
    if asked not in (None, found.generation):
        raise NoSuchThing(f"No such object: {found.bucket}/{found.name}#{asked}")


def composition(body: Json) -> tuple[list[tuple[str, Conditions]], Json]:
    """What a compose request asks for. Raises Refused.

    Returns the objects to compose, with what must hold of each, and the fields of the new one.
    """
    try:
        sources = [
            (
                str(source["name"]),
                Conditions(number(_asked_generation(source), "ifGenerationMatch")),
            )
            for source in body.get("sourceObjects", [])
        ]
        return sources, fields(body.get("destination", {}))
    except (TypeError, KeyError, AttributeError) as error:
        raise Refused(f"The compose request is not understood: {error!r}") from None


def _asked_generation(source: Json) -> Any:
    return source.get("objectPreconditions", {}).get("ifGenerationMatch")


def start(query: Query) -> str:
    """The first name that a listing is asked for. Raises Refused."""
    token = query.get("pageToken")
    if not token:
        return query.get("startOffset", "")
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Refused("Invalid pageToken.") from None


def byte_range(header: str | None, size: int) -> tuple[int, int, bool]:
    """The first and the last byte that a read wants of ``size``, and whether that is a part.

    Raises OutOfRange.
    """
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


# --- how answers are written --------------------------------------------------------


def bucket_resource(bucket: Bucket) -> Json:
    """A bucket, as the API describes it."""
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


def object_resource(one: Object, endpoint: str) -> Json:
    """An object, as the API at ``endpoint`` describes it."""
    where = f"b/{one.bucket}/o/{quote(one.name, safe='')}"
    media = f"{endpoint}/download/storage/v1/{where}?generation={one.generation}&alt=media"
    return {
        **one.fields,
        "kind": "storage#object",
        "id": f"{one.bucket}/{one.name}/{one.generation}",
        "selfLink": f"{endpoint}/storage/v1/{where}",
        "mediaLink": media,
        "name": one.name,
        "bucket": one.bucket,
        "generation": str(one.generation),
        "metageneration": str(one.metageneration),
        "storageClass": "STANDARD",
        "size": str(one.size),
        "md5Hash": one.md5,
        "crc32c": one.crc32c,
        "etag": etag(one),
        "timeCreated": _time(one.created),
        "updated": _time(one.updated),
        "timeStorageClassUpdated": _time(one.created),
    }


def page(listing: Listing, endpoint: str) -> Json:
    """A page of a listing."""
    answer: Json = {"kind": "storage#objects"}
    if listing.objects:
        answer["items"] = [object_resource(one, endpoint) for one in listing.objects]
    if listing.prefixes:
        answer["prefixes"] = listing.prefixes
    if listing.next is not None:
        answer["nextPageToken"] = base64.urlsafe_b64encode(listing.next.encode()).decode()
    return answer


def etag(one: Object) -> str:
    """Changes whenever the object does."""
    text = f"{one.generation}.{one.metageneration}"
    return base64.b64encode(text.encode()).decode()


def error(code: int, reason: str, message: str) -> Json:
    """An error's body."""
    errors = [{"domain": "global", "reason": reason, "message": message}]
    return {"error": {"code": code, "message": message, "errors": errors}}


def _time(moment: float) -> str:
    utc = datetime.fromtimestamp(moment, timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # RFC 3339
