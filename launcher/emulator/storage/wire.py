"""How requests to Cloud Storage are read: JSON, parameters, headers."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request

from launcher.emulator.storage import unserved
from launcher.emulator.storage.errors import OutOfRange, Refused
from launcher.emulator.storage.index import Position
from launcher.emulator.storage.listing import BEGIN, Query
from launcher.emulator.storage.objects import Source
from launcher.emulator.storage.resource import Conditions

Json = dict[str, Any]
Parameters = Mapping[str, str]

PAGE = 1000
JSON_LIMIT = 2**20  # bytes
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
LARGEST = 2**63 - 1
# What an object's owner may say about it.
FIELDS = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "customTime",
    "storageClass",
    "metadata",
)
# What a bucket's owner may say about it. Nobody but its owner reaches a bucket of the emulator,
# whatever iamConfiguration says.
SETTINGS = ("iamConfiguration", "labels", "storageClass", "versioning")
CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL")


# --- bodies -------------------------------------------------------------------------


async def read_json(request: Request) -> Json:
    """The body as an object; an empty body is an empty object. Raises Refused."""
    body = await read_body(request, JSON_LIMIT)
    if request.headers.get("content-encoding") == "gzip":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise Refused(f"The body is not what gzip makes: {error}") from None
    return parsed(body)


async def read_body(request: Request, limit: int) -> bytes:
    """The body. Raises Refused when it is larger than ``limit`` bytes."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise Refused(f"The body is larger than {limit} bytes.")
    return bytes(body)


def parsed(body: bytes) -> Json:
    """JSON as an object. Raises Refused."""
    try:
        value = json.loads(body or b"{}")
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # it must go out again
    except (ValueError, RecursionError) as error:
        raise Refused(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused("The body must be a JSON object.")
    return value


def fields(body: Json) -> Json:
    """The fields that a new object's owner gives it. Raises Refused, NotServed."""
    return {key: value for key, value in changes(body).items() if value is not None}


def changes(body: Json) -> Json:
    """The fields that a patch changes; those that it takes away are None.

    Raises Refused, NotServed.
    """
    unserved.check_object(body)
    said = {key: value for key, value in body.items() if key in FIELDS}
    for key, value in said.items():
        if not isinstance(value, dict if key == "metadata" else str) and value is not None:
            raise Refused(f"Invalid value for {key}.")
    if not all(isinstance(one, str | None) for one in (said.get("metadata") or {}).values()):
        raise Refused("The values of metadata must be texts.")
    _check_class(said)
    return said


def settings(body: Json) -> Json:
    """What a bucket's description says of it. Raises Refused, NotServed."""
    unserved.check_bucket(body)
    said = {key: value for key, value in body.items() if key in SETTINGS}
    for key, value in said.items():
        if not isinstance(value, str if key == "storageClass" else dict) and value is not None:
            raise Refused(f"Invalid value for {key}.")
    _check_class(said)
    return said


def composition(bucket: str, body: Json) -> tuple[list[Source], Json]:
    """What a compose request asks for. Raises Refused, NotServed.

    Returns the objects to compose, with what must hold of each, and the fields of the new one.
    """
    try:
        sources = [_source(bucket, one) for one in body.get("sourceObjects", [])]
        return sources, fields(body.get("destination") or {})
    except (TypeError, KeyError, AttributeError) as error:
        raise Refused(f"The compose request is not understood: {error!r}") from None


def _source(bucket: str, said: Json) -> Source:
    match = (said.get("objectPreconditions") or {}).get("ifGenerationMatch")
    return Source(
        bucket,
        str(said["name"]),
        number(said.get("generation"), "generation"),
        Conditions(number(match, "ifGenerationMatch")),
    )


def _check_class(said: Json) -> None:
    asked = said.get("storageClass")
    if asked is not None and asked not in CLASSES:
        raise Refused(f"Invalid storage class: {str(asked)[:40]!r}")


# --- parameters and headers -----------------------------------------------------------


def number(value: Any, name: str) -> int | None:
    """A parameter that is a whole number, or None if it was not given. Raises Refused."""
    if value in (None, ""):
        return None
    if not re.fullmatch(r"\d{1,19}", str(value)) or int(value) > LARGEST:
        raise Refused(f"Invalid value for {name}: {str(value)[:40]!r}")
    return int(value)


def flag(query: Parameters, name: str) -> bool:
    """A parameter that is true or false. Raises Refused."""
    value = query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise Refused(f"Invalid value for {name}: {value[:40]!r}")
    return value == "true"


def conditions(request: Request) -> Conditions:
    """What must hold of the object or bucket of a request. Raises Refused."""
    headers = request.headers
    return replace(
        _numbers(request.query_params, "if"),
        etag_match=_etags(headers.get("if-match")),
        etag_not_match=_etags(headers.get("if-none-match")) or frozenset(),
    )


def source(request: Request, bucket: str, name: str) -> Source:
    """The object that a request copies or moves, and what must hold of it. Raises Refused."""
    query = request.query_params
    version = number(query.get("sourceGeneration"), "sourceGeneration")
    return Source(bucket, name, version, _numbers(query, "ifSource"))


def xml_conditions(request: Request) -> Conditions:
    """The same for the XML API, which has them in headers. Raises Refused."""
    headers = request.headers
    return Conditions(
        generation_match=_in_header(headers, "x-goog-if-generation-match"),
        metageneration_match=_in_header(headers, "x-goog-if-metageneration-match"),
        etag_match=_etags(headers.get("if-match")),
        etag_not_match=_etags(headers.get("if-none-match")) or frozenset(),
    )


def generation(request: Request) -> int | None:
    """The version of the object that a request is about; None for the live one."""
    return number(request.query_params.get("generation"), "generation")


def checksums(headers: Headers) -> Json:
    """The checksums that a request says its content has, as an object's fields have them."""
    said = {}
    for one in ",".join(headers.getlist("x-goog-hash")).split(","):
        kind, _, value = one.strip().partition("=")
        if key := {"crc32c": "crc32c", "md5": "md5Hash"}.get(kind):
            said[key] = value
    if md5 := headers.get("content-md5"):
        said["md5Hash"] = md5
    return said


def listing(query: Parameters) -> Query:
    """What a listing of objects asks for. Raises Refused."""
    token = query.get("pageToken")
    return Query(
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        start=_position(token) if token else (query.get("startOffset", ""), BEGIN[1]),
        end=query.get("endOffset", ""),
        limit=page_size(query),
        glob=query.get("matchGlob", ""),
        trailing=flag(query, "includeTrailingDelimiter"),
        versions=flag(query, "versions"),
    )


def page_size(query: Parameters) -> int:
    """How much a page of a listing may have. Raises Refused."""
    return min(PAGE, number(query.get("maxResults"), "maxResults") or PAGE)


def page_token(position: Position) -> str:
    """What a listing goes on from, as its client is given it."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _position(token: str) -> Position:
    try:
        name, generation = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        name.encode()
        if 0 <= generation <= LARGEST:
            return name, int(generation)
    except (binascii.Error, ValueError, TypeError, AttributeError):
        pass
    raise Refused("Invalid pageToken.")


def byte_range(header: str | None, size: int) -> tuple[int, int, bool]:
    """The first and the last byte that a read wants of ``size``, and whether that is a part.

    Raises OutOfRange.
    """
    found = RANGE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return 0, size - 1, False
    if found[1] and found[2] and int(found[2]) < int(found[1]):
        return 0, size - 1, False  # RFC 9110: no range at all
    if found[1] == "":
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
    if first > last:
        raise OutOfRange(size)
    return first, last, True


def takes_gzip(headers: Headers) -> bool:
    """Whether a client decompresses by itself what gzip has made."""
    for one in ",".join(headers.getlist("accept-encoding")).split(","):
        name, _, weight = one.replace(" ", "").lower().partition(";q=")
        if name in ("gzip", "*"):
            return weight not in ("0", "0.0", "0.00", "0.000")
    return False


def _numbers(query: Parameters, prefix: str) -> Conditions:
    def asked(name: str) -> int | None:
        return number(query.get(prefix + name), prefix + name)

    return Conditions(
        asked("GenerationMatch"),
        asked("GenerationNotMatch"),
        asked("MetagenerationMatch"),
        asked("MetagenerationNotMatch"),
    )


def _in_header(headers: Headers, name: str) -> int | None:
    return number(headers.get(name), name)


def _etags(header: str | None) -> frozenset[str] | None:
    if header is None:
        return None
    return frozenset(one.strip().removeprefix("W/").strip('"') for one in header.split(","))
