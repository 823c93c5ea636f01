"""What the XML API is asked of objects: whole ones, and those that come in parts.

An upload in parts belongs to the process that serves it, as a resumable one does.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from launcher.emulator.storage import wire
from launcher.emulator.storage.blobs import Content
from launcher.emulator.storage.downloads import checksums, download
from launcher.emulator.storage.errors import (
    Corrupted,
    NoSuchThing,
    NotServed,
    Refused,
    StorageError,
)
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.resource import Conditions, Object
from launcher.emulator.storage.unserved import Feature
from launcher.emulator.storage.uploads import receive, verify

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
PART_MINIMUM = 5 * 2**20  # bytes of any part but the last
PARTS = 10_000
META = "x-goog-meta-"
HEADERS = {
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "content-disposition": "contentDisposition",
    "content-language": "contentLanguage",
    "cache-control": "cacheControl",
    "x-goog-custom-time": "customTime",
    "x-goog-storage-class": "storageClass",
}
# What may be in a query without asking for another thing than the object.
_OWN = {"uploads", "uploadId", "partNumber", "generation"}


class TooSmall(Refused):
    """A part is smaller than all but the last must be."""

    code = "EntityTooSmall"


class WrongPart(Refused):
    """A part that is to be put together was not uploaded, or is another one."""

    code = "InvalidPart"


class NoSuchUpload(NoSuchThing):
    """There is no such upload."""

    code = "NoSuchUpload"


@dataclass
class Upload:
    """An upload in parts that has not ended."""

    bucket: str
    name: str
    fields: dict[str, Any]
    conditions: Conditions
    parts: dict[int, Content] = field(default_factory=dict)


class XmlRequests:
    """The handlers of requests to objects; ``answer`` raises StorageError.

    Args:
        objects: what is served.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads: dict[str, Upload] = {}

    async def answer(self, request: Request, bucket: str, name: str) -> Response:
        """Answers a request to an object."""
        if not bucket or not name:
            raise NotServed(Feature.XML_BUCKETS.value)
        query = request.query_params
        if any(value == "" and key not in _OWN for key, value in query.items()):
            raise NotServed(Feature.XML_SUBRESOURCES.value)
        match request.method:
            case "GET" | "HEAD" if "uploadId" not in query:
                return await self._get(request, bucket, name)
            case "PUT" if "uploadId" in query:
                return await self._put_part(request, bucket, name)
            case "PUT":
                return await self._put(request, bucket, name)
            case "POST" if "uploads" in query:
                return await self._begin(request, bucket, name)
            case "POST" if "uploadId" in query:
                return await self._complete(request, bucket, name)
            case "DELETE" if "uploadId" in query:
                upload = self._find(request, bucket, name)
                del self._uploads[query["uploadId"]]
                await run_in_threadpool(self._objects.drop, *upload.parts.values())
                return Response(status_code=204)
            case "DELETE":
                conditions, generation = wire.xml_conditions(request), wire.generation(request)
                await run_in_threadpool(self._objects.delete, bucket, name, conditions, generation)
                return Response(status_code=204)
        raise NotServed(Feature.XML_SUBRESOURCES.value)

    async def _get(self, request: Request, bucket: str, name: str) -> Response:
        conditions, generation = wire.xml_conditions(request), wire.generation(request)
        found, file = await run_in_threadpool(
            self._objects.open, bucket, name, conditions, generation
        )
        response = download(request, found, file, f'"{found.xml_etag}"')
        for key, value in (found.fields.get("metadata") or {}).items():
            if re.fullmatch(r"[\w.-]+", key, re.ASCII):
                response.headers[META + key] = str(value).encode().decode("latin-1")
        return response

    async def _put(self, request: Request, bucket: str, name: str) -> Response:
        conditions, fields = wire.xml_conditions(request), _fields(request.headers)
        content = await self._received(request)
        made = await run_in_threadpool(self._objects.put, bucket, name, content, fields, conditions)
        return Response(headers=_about(made))

    async def _begin(self, request: Request, bucket: str, name: str) -> Response:
        conditions, fields = wire.xml_conditions(request), _fields(request.headers)
        await run_in_threadpool(self._objects.require, bucket, name, conditions)
        made = uuid.uuid4().hex
        self._uploads[made] = Upload(bucket, name, fields, conditions)
        said = {"Bucket": bucket, "Key": name, "UploadId": made}
        return _xml(document("InitiateMultipartUploadResult", said, NAMESPACE))

    async def _put_part(self, request: Request, bucket: str, name: str) -> Response:
        upload = self._find(request, bucket, name)
        number = wire.number(request.query_params.get("partNumber"), "partNumber")
        if number is None or not 1 <= number <= PARTS:
            raise Refused(f"partNumber must be between 1 and {PARTS}.")
        content = await self._received(request)
        if before := upload.parts.get(number):
            self._objects.drop(before)
        upload.parts[number] = content
        hashes = f"crc32c={content.crc32c},md5={content.md5}"
        return Response(headers={"ETag": _part_etag(content), "X-Goog-Hash": hashes})

    async def _complete(self, request: Request, bucket: str, name: str) -> Response:
        upload = self._find(request, bucket, name)
        parts = _chosen(await wire.read_body(request, wire.JSON_LIMIT), upload)
        await run_in_threadpool(self._objects.require, bucket, name, upload.conditions)
        if self._uploads.pop(request.query_params["uploadId"], None) is None:
            raise NoSuchUpload("The requested upload has been completed meanwhile.")
        self._objects.drop(*(one for one in upload.parts.values() if one not in parts))
        content = await run_in_threadpool(self._objects.joined, parts)
        made = await run_in_threadpool(
            self._objects.put, bucket, name, content, upload.fields, upload.conditions
        )
        said = {"Bucket": bucket, "Key": name, "ETag": f'"{made.xml_etag}"'}
        return _xml(document("CompleteMultipartUploadResult", said, NAMESPACE), _about(made))

    def _find(self, request: Request, bucket: str, name: str) -> Upload:
        upload = self._uploads.get(request.query_params["uploadId"])
        if upload is None or (upload.bucket, upload.name) != (bucket, name):
            raise NoSuchUpload("The requested upload was not found.")
        return upload

    async def _received(self, request: Request) -> Content:
        """The body, if it has the checksums that its headers say. Raises Corrupted."""
        content = await receive(request, self._objects)
        try:
            verify(wire.checksums(request.headers), content)
        except Corrupted:
            self._objects.drop(content)
            raise
        return content


def problem(error: StorageError, request: Request) -> Response:
    """What a client is told instead of an answer."""
    if error.status == 304 or request.method == "HEAD":
        return Response(status_code=error.status, headers=error.headers)
    said = {"Code": error.code, "Message": str(error), "Details": str(error)}
    return _xml(document("Error", said), error.headers, error.status)


def document(name: str, said: dict[str, str], namespace: str = "") -> bytes:
    """A document of one level."""
    root = ElementTree.Element(name, {"xmlns": namespace} if namespace else {})
    for key, value in said.items():
        ElementTree.SubElement(root, key).text = value
    return bytes(ElementTree.tostring(root, "UTF-8", xml_declaration=True))


def _xml(body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    return Response(body, status, headers, "application/xml; charset=UTF-8")


def _fields(headers: Headers) -> dict[str, Any]:
    """What the headers of an upload say of its object. Raises Refused."""
    said: dict[str, Any] = {
        field: headers[name] for name, field in HEADERS.items() if name in headers
    }
    metadata = {
        name.removeprefix(META): value.encode("latin-1").decode(errors="replace")
        for name, value in headers.items()
        if name.startswith(META)
    }
    return wire.fields({**said, **({"metadata": metadata} if metadata else {})})


def _about(made: Object) -> dict[str, str]:
    return {
        "ETag": f'"{made.xml_etag}"',
        "X-Goog-Generation": str(made.generation),
        "X-Goog-Metageneration": str(made.metageneration),
        "X-Goog-Hash": checksums(made),
        "X-Goog-Stored-Content-Length": str(made.size),
        "X-Goog-Stored-Content-Encoding": made.fields.get("contentEncoding", "identity"),
    }


def _chosen(body: bytes, upload: Upload) -> list[Content]:
    """The parts that a request puts together. Raises Refused."""
    try:
        asked = [
            (int(part.findtext("{*}PartNumber", "")), part.findtext("{*}ETag", ""))
            for part in ElementTree.fromstring(body).iterfind("{*}Part")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise Refused(f"The list of parts is not understood: {error}") from None
    numbers = [number for number, _ in asked]
    if not asked or numbers != sorted(set(numbers)):
        raise Refused("The parts must be listed, in ascending order.")
    chosen = []
    for number, etag in asked:
        part = upload.parts.get(number)
        if part is None or etag.strip('"') != _part_etag(part).strip('"'):
            raise WrongPart(f"Part {number} was not uploaded, or has another ETag.")
        chosen.append(part)
    if any(part.size < PART_MINIMUM for part in chosen[:-1]):
        raise TooSmall(f"Every part but the last has at least {PART_MINIMUM} bytes.")
    return chosen


def _part_etag(part: Content) -> str:
    return f'"{part.md5}"'
