"""How an object's content goes out: whole, in part, or decompressed on its way."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from launcher.emulator.storage.resource import Object
from launcher.emulator.storage.wire import byte_range, takes_gzip

CHUNK = 2**20
MAGIC = b"\x1f\x8b"  # what gzip makes begins so
# Fields that are headers when the content is read.
HEADERS = {
    "cacheControl": "Cache-Control",
    "contentDisposition": "Content-Disposition",
    "contentLanguage": "Content-Language",
}


def download(request: Request, found: Object, file: BinaryIO, etag: str) -> Response:
    """Answers with an object's content, or with its headers alone when those were asked for.

    What is stored compressed by gzip is decompressed for a client that does not say that it takes
    gzip, as Cloud Storage does: then there is no part of it, and its length is not known before.

    Args:
        request: which may ask for a part, and say what it takes.
        found: the object.
        file: its content, which is closed in the end.
        etag: as the API that is asked has it.

    Raises OutOfRange.
    """
    try:
        headers = {**_described(found), "ETag": etag}
        unzips = _unzips(request, found, file)
        whole = request.headers.get("range") if not unzips else None
        first, last, partial = byte_range(whole, found.size)
        if unzips:
            headers["X-GUploader-Response-Body-Transformations"] = "gunzipped"
            headers["Warning"] = "214 UploadServer gunzipped"
        else:
            headers["Content-Length"] = str(last + 1 - first)
            headers["Accept-Ranges"] = "bytes"
            if encoding := found.fields.get("contentEncoding"):
                headers["Content-Encoding"] = encoding
        if partial:
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    except BaseException:
        file.close()
        raise
    status = 206 if partial else 200
    safe = {name: _safe(value) for name, value in headers.items()}
    if request.method == "HEAD":
        file.close()
        response = Response(None, status, safe)
        if unzips:
            del response.headers["Content-Length"]  # it is not known, and not 0
        return response
    pieces = _pieces(file, first, last + 1 - first)
    body = _unzipped(pieces) if unzips else pieces
    return StreamingResponse(body, status, safe)


def checksums(found: Object) -> str:
    """What X-Goog-Hash says of an object's stored bytes."""
    md5 = [f"md5={found.md5}"] if found.md5 else []
    return ",".join([f"crc32c={found.crc32c}", *md5])


def _described(found: Object) -> dict[str, str]:
    headers = {
        "Content-Type": found.fields.get("contentType", "application/octet-stream"),
        "Last-Modified": formatdate(found.updated, usegmt=True),
        "X-Goog-Generation": str(found.generation),
        "X-Goog-Metageneration": str(found.metageneration),
        "X-Goog-Storage-Class": found.storage_class,
        "X-Goog-Stored-Content-Length": str(found.size),
        "X-Goog-Stored-Content-Encoding": found.fields.get("contentEncoding", "identity"),
        "X-Goog-Hash": checksums(found),
    }
    if components := found.fields.get("componentCount"):
        headers["X-Goog-Component-Count"] = str(components)
    for field, header in HEADERS.items():
        if value := found.fields.get(field):
            headers[header] = value
    return headers


def _unzips(request: Request, found: Object, file: BinaryIO) -> bool:
    if not found.zipped or takes_gzip(request.headers):
        return False
    if "no-transform" in found.fields.get("cacheControl", ""):
        return False
    return file.read(len(MAGIC)) == MAGIC


def _safe(value: str) -> str:
    """A text as HTTP can carry it in a header."""
    return re.sub(r"[\0-\x1f\x7f]", " ", value).encode().decode("latin-1")


async def _pieces(file: BinaryIO, first: int, size: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(first)
        while size > 0:
            piece = await run_in_threadpool(file.read, min(CHUNK, size))
            size -= len(piece)
            yield piece


async def _unzipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Raises zlib.error, which cuts the answer, when the content is damaged."""
    member = _member()
    async for piece in pieces:
        while piece:
            yield await run_in_threadpool(member.decompress, piece)
            piece = member.unused_data
            if member.eof:
                member = _member()  # gzip's files may be put together, as compose does
    yield member.flush()


def _member() -> zlib._Decompress:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
