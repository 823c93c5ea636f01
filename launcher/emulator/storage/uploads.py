"""How objects come in: in one request, as a multipart body, or in chunks that can be resumed.

A resumable upload belongs to the process that serves it: after a restart its client is told
that it is unknown, and begins again.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from launcher.emulator.storage import wire
from launcher.emulator.storage.blobs import Content, Receiver
from launcher.emulator.storage.objects import Conditions, NoSuchThing, Object, Objects, Refused

JSON_LIMIT = 2**20  # bytes
MULTIPART_LIMIT = 256 * 2**20
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass
class Session:
    """One resumable upload that has not ended."""

    bucket: str
    name: str
    claimed: dict[str, Any]  # checksums that its content must have
    fields: dict[str, Any]
    conditions: Conditions
    receiver: Receiver


class Uploads:
    """Receives objects' content.

    Args:
        objects: where it goes.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._sessions: dict[str, Session] = {}
        self._done: dict[str, Object] = {}  # whose client may not have heard the answer

    async def media(self, request: Request, bucket: str, conditions: Conditions) -> Object:
        """The body is the content."""
        fields = {}
        if kind := request.headers.get("content-type"):
            fields["contentType"] = kind
        name = request.query_params.get("name", "")
        with self._objects.receiving() as receiver:
            async for piece in request.stream():
                await run_in_threadpool(receiver.write, piece)
        return await self._put(bucket, name, {}, receiver.content(), fields, conditions)

    async def multipart(self, request: Request, bucket: str, conditions: Conditions) -> Object:
        """The body is a part of JSON and a part of content."""
        boundary = re.search(
            r'boundary=(?:"([^"]+)"|([^;\s]+))', request.headers.get("content-type", "")
        )
        if boundary is None:
            raise Refused("A multipart upload needs a boundary.")
        body = await _body(request, MULTIPART_LIMIT)
        description, kind, content = _parts(body, (boundary[1] or boundary[2]).encode())
        given = wire.fields(description)
        given.setdefault("contentType", kind)
        name = str(description.get("name") or request.query_params.get("name", ""))
        with self._objects.receiving() as receiver:
            await run_in_threadpool(receiver.write, content)
        return await self._put(bucket, name, description, receiver.content(), given, conditions)

    async def begin(self, request: Request, bucket: str, conditions: Conditions) -> str:
        """Begins a resumable upload. Returns its id."""
        description = await read_json(request)
        given = wire.fields(description)
        if kind := request.headers.get("x-upload-content-type"):
            given.setdefault("contentType", kind)
        name = str(description.get("name") or request.query_params.get("name", ""))
        await run_in_threadpool(self._check, bucket, name, conditions)
        session = uuid.uuid4().hex
        self._sessions[session] = Session(
            bucket, name, description, given, conditions, self._objects.receiver()
        )
        return session

    async def chunk(self, request: Request, session_id: str) -> Object | int:
        """Takes in a chunk, or tells what is there. Returns the object once it is complete.

        Until then, the number of bytes that are there. What a cut connection has brought
        stays, and a chunk may repeat what is there.
        """
        if done := self._done.get(session_id):
            return done
        session = self._sessions.get(session_id)
        if session is None:
            raise NoSuchThing("This upload does not exist, or has ended.")
        receiver = session.receiver
        header = request.headers.get("content-range")
        asked = CONTENT_RANGE.fullmatch(header or "")
        if header and asked is None:
            raise Refused(f"Invalid Content-Range: {header[:60]!r}")
        first = int(asked[1]) if asked and asked[1] else receiver.size if asked else 0
        if first > receiver.size:
            raise Refused(f"The upload has {receiver.size} bytes; {first} is behind that.")
        repeated = receiver.size - first
        async for piece in request.stream():
            fresh = piece[repeated:]
            repeated = max(0, repeated - len(piece))
            await run_in_threadpool(receiver.write, fresh)
        total = asked[3] if asked else str(receiver.size)
        if total == "*" or receiver.size < int(total):
            return receiver.size
        if receiver.size > int(total):
            raise Refused(f"The upload has {receiver.size} bytes, more than the {total} announced.")
        del self._sessions[session_id]
        made = await self._put(
            session.bucket,
            session.name,
            session.claimed,
            receiver.content(),
            session.fields,
            session.conditions,
        )
        self._done[session_id] = made
        return made

    def cancel(self, session_id: str) -> None:
        """Forgets an upload; NoSuchThing."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            raise NoSuchThing("This upload does not exist, or has ended.")
        session.receiver.drop()

    def _check(self, bucket: str, name: str, conditions: Conditions) -> None:
        self._objects.bucket(bucket)
        try:
            found = self._objects.get(bucket, name)
        except NoSuchThing:
            found = None
        conditions.check(found)

    async def _put(
        self,
        bucket: str,
        name: str,
        claimed: dict[str, Any],
        content: Content,
        fields: dict[str, Any],
        conditions: Conditions,
    ) -> Object:
        for key, actual in (("crc32c", content.crc32c), ("md5Hash", content.md5)):
            if claimed.get(key) not in (None, actual):
                raise Refused(f"Provided {key} does not match the one calculated: {actual}")
        return await run_in_threadpool(self._objects.put, bucket, name, content, fields, conditions)


async def read_json(request: Request) -> dict[str, Any]:
    """The body as an object; an empty body is an empty object. Raises Refused."""
    return _json(await _body(request, JSON_LIMIT))


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise Refused(f"The body is larger than {limit} bytes.")
    return bytes(body)


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused("The body must be a JSON object.")
    return value


def _parts(body: bytes, boundary: bytes) -> tuple[dict[str, Any], str, bytes]:
    """Returns the JSON, the content's type and the content of a multipart/related body.

    gcsfs ends lines with LF alone where RFC 2046 wants CRLF; both are understood.
    """
    mark = b"--" + boundary
    begin = re.match(rb"\s*" + re.escape(mark) + rb"\r?\n", body)
    middle = re.compile(rb"\r?\n" + re.escape(mark) + rb"\r?\n").search(body)
    end = body.rfind(b"\n" + mark + b"--")
    if begin is None or middle is None or end < middle.end():
        raise Refused("The multipart body is not two parts.")
    if body[end - 1 : end] == b"\r":
        end -= 1
    _, description = _part(body[begin.end() : middle.start()])
    kind, content = _part(body[middle.end() : end])
    return _json(description), kind, content


def _part(part: bytes) -> tuple[str, bytes]:
    blank = re.search(rb"\r?\n\r?\n", part)
    if blank is None:
        raise Refused("A part has no headers.")
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", part[: blank.start()])
    text = kind[1].decode("latin-1").strip() if kind else "application/octet-stream"
    return text, part[blank.end() :]
