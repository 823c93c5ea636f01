"""How objects come in: in one request, as a multipart body, or in chunks that can be resumed.

A resumable upload belongs to the process that serves it: after a restart its client is told
that it is unknown, and begins again.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from launcher.emulator.storage import multipart, wire
from launcher.emulator.storage.blobs import Content, Receiver
from launcher.emulator.storage.errors import Busy, Corrupted, Ended, NoSuchThing, Refused
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.resource import Conditions, Object

MULTIPART_LIMIT = 256 * 2**20
QUANTUM = 256 * 2**10  # what Cloud Storage keeps of a chunk that is not the last is whole ones
CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18}|\*)|\*)/(\d{1,18}|\*)")


@dataclass
class Session:
    """One resumable upload that has not ended.

    Attributes:
        claimed: checksums that its content must have.
        length: how long its content was announced to be, if it was.
    """

    bucket: str
    name: str
    claimed: dict[str, Any]
    length: int | None
    fields: dict[str, Any]
    conditions: Conditions
    receiver: Receiver


@dataclass(frozen=True)
class Chunk:
    """What a request to a resumable upload says of its body.

    Attributes:
        first: where in the content it begins; None for a question of how much is there.
        last: its last byte, if that is said.
        total: the length of the whole content, if that is said.
        open: whether it says neither, and ends the content.
    """

    first: int | None
    last: int | None
    total: int | None
    open: bool


class Uploads:
    """Receives objects' content.

    Args:
        objects: where it goes.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._sessions: dict[str, Session] = {}
        self._done: dict[str, Object] = {}  # whose client may not have heard the answer
        self._ending: set[str] = set()  # whose object is being made
        self._failed: set[str] = set()

    async def media(self, request: Request, bucket: str) -> Object:
        """The body is the content."""
        query = request.query_params
        given, conditions = _given(request, {}), wire.conditions(request)
        if kind := request.headers.get("content-type"):
            given["contentType"] = kind
        content = await receive(request, self._objects)
        claims = [wire.checksums(request.headers)]
        return await self._put(bucket, query.get("name", ""), claims, content, given, conditions)

    async def multipart(self, request: Request, bucket: str) -> Object:
        """The body is a part of JSON and a part of content."""
        boundary = multipart.boundary(request.headers.get("content-type", ""))
        body = await wire.read_body(request, MULTIPART_LIMIT)
        description, kind, content = multipart.described(body, boundary)
        given = _given(request, description)
        given.setdefault("contentType", kind)
        name = _name(request, description)
        conditions = wire.conditions(request)
        with self._objects.receiving() as receiver:
            await run_in_threadpool(receiver.write, content)
        claims = [wire.checksums(request.headers), description]
        return await self._put(bucket, name, claims, receiver.content(), given, conditions)

    async def begin(self, request: Request, bucket: str) -> str:
        """Begins a resumable upload. Returns its id."""
        description = await wire.read_json(request)
        given = _given(request, description)
        if kind := request.headers.get("x-upload-content-type"):
            given.setdefault("contentType", kind)
        name, conditions = _name(request, description), wire.conditions(request)
        length = wire.number(
            request.headers.get("x-upload-content-length"), "X-Upload-Content-Length"
        )
        await run_in_threadpool(self._objects.require, bucket, name, conditions)
        session = uuid.uuid4().hex
        self._sessions[session] = Session(
            bucket, name, description, length, given, conditions, self._objects.receiver()
        )
        return session

    async def chunk(self, request: Request, session_id: str) -> Object | int:
        """Takes in a chunk, or tells what is there. Returns the object once it is complete.

        Until then, the number of bytes that are there. What a cut connection has brought
        stays, and a chunk may repeat what is there.
        """
        if done := self._done.get(session_id):
            return done
        session = self._find(session_id)
        chunk = _chunk(request, session)
        receiver = session.receiver
        if chunk.first is not None:
            await self._receive(request, chunk, receiver)
        total = receiver.size if chunk.open else chunk.total
        if total is None or receiver.size < total:
            return receiver.size
        if receiver.size > total:
            raise Refused(f"The upload has {receiver.size} bytes, more than the {total} announced.")
        del self._sessions[session_id]
        self._ending.add(session_id)
        try:
            self._done[session_id] = await self._put(
                session.bucket,
                session.name,
                [session.claimed, wire.checksums(request.headers)],
                receiver.content(),
                session.fields,
                session.conditions,
            )
        except BaseException:
            self._failed.add(session_id)
            raise
        finally:
            self._ending.discard(session_id)
        return self._done[session_id]

    def cancel(self, session_id: str) -> None:
        """Forgets an upload, also one that is complete; NoSuchThing, Ended."""
        if self._done.pop(session_id, None) is None:
            self._find(session_id).receiver.drop()
            del self._sessions[session_id]

    def _find(self, session_id: str) -> Session:
        if session_id in self._ending:
            raise Busy("This upload is ending: ask again.")
        if session_id in self._failed:
            raise Ended("This upload has failed: begin another one.")
        session = self._sessions.get(session_id)
        if session is None:
            raise NoSuchThing("This upload does not exist.")
        return session

    async def _receive(self, request: Request, chunk: Chunk, receiver: Receiver) -> None:
        assert chunk.first is not None
        if chunk.first > receiver.size:
            raise Refused(
                f"Invalid request. According to the Content-Range header, the upload offset is "
                f"{chunk.first} byte(s), which exceeds already uploaded size of "
                f"{receiver.size} byte(s)."
            )
        repeated = receiver.size - chunk.first
        held = bytearray()
        size = 0
        async for piece in request.stream():
            size += len(piece)
            held += piece[repeated:]
            repeated = max(0, repeated - len(piece))
            whole = len(held) - len(held) % QUANTUM
            if whole:
                await run_in_threadpool(receiver.write, bytes(held[:whole]))
                del held[:whole]
        if chunk.last is not None and chunk.first + size != chunk.last + 1:
            raise Refused(f"The body has {size} bytes, and Content-Range says otherwise.")
        if chunk.open or chunk.first + size == chunk.total:
            await run_in_threadpool(receiver.write, bytes(held))
        elif size < QUANTUM:
            raise Refused(
                f"Invalid request. The number of bytes uploaded is required to be equal or greater "
                f"than {QUANTUM}, except for the final request. The received request contained "
                f"{size} bytes."
            )

    async def _put(
        self,
        bucket: str,
        name: str,
        claims: Sequence[dict[str, Any]],
        content: Content,
        fields: dict[str, Any],
        conditions: Conditions,
    ) -> Object:
        try:
            for claimed in claims:
                verify(claimed, content)
        except Corrupted:
            self._objects.drop(content)
            raise
        return await run_in_threadpool(self._objects.put, bucket, name, content, fields, conditions)


async def receive(request: Request, objects: Objects) -> Content:
    """Takes in a request's body."""
    with objects.receiving() as receiver:
        async for piece in request.stream():
            await run_in_threadpool(receiver.write, piece)
    return receiver.content()


def verify(claimed: dict[str, Any], content: Content) -> None:
    """Raises Corrupted when content has other checksums than its client says."""
    for key, actual in (("crc32c", content.crc32c), ("md5Hash", content.md5)):
        if claimed.get(key) not in (None, "", actual):
            raise Corrupted(
                f"Provided {key} {str(claimed[key])[:40]!r} doesn't match calculated {actual!r}."
            )


def _given(request: Request, description: dict[str, Any]) -> dict[str, Any]:
    """What is said of a new object, in its description and in the request."""
    encoding = request.query_params.get("contentEncoding")
    return wire.fields({**description, **({"contentEncoding": encoding} if encoding else {})})


def _name(request: Request, description: dict[str, Any]) -> str:
    asked, said = request.query_params.get("name"), description.get("name")
    if asked and said and asked != said:
        raise Refused(f"Value '{said}' in content does not agree with value '{asked}'.")
    return str(said or asked or "")


def _chunk(request: Request, session: Session) -> Chunk:
    header = request.headers.get("content-range")
    if header is None:
        return Chunk(0, None, None, open=True)
    said = CONTENT_RANGE.fullmatch(header)
    if said is None:
        raise Refused(f"Invalid Content-Range: {header[:60]!r}")
    total = None if said[3] == "*" else int(said[3])
    if None not in (total, session.length) and total != session.length:
        raise Refused(f"{total} bytes in all are not the {session.length} announced at first.")
    if said[1] is None:
        return Chunk(None, None, total, open=False)
    total = session.length if total is None else total
    last = None if said[2] == "*" else int(said[2])
    return Chunk(int(said[1]), last, total, open=last is None and total is None)
