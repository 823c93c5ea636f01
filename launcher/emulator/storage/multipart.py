"""Bodies of several parts: uploads with their description, and batches of requests."""

from __future__ import annotations

import re

from launcher.emulator.storage.errors import Refused
from launcher.emulator.storage.wire import Json, parsed

_HEADER = re.compile(rb"([^:\s]+):[ \t]*([^\r\n]*)")


def boundary(content_type: str) -> bytes:
    """What separates the parts. Raises Refused."""
    found = re.search(r'boundary=(?:"([^"]+)"|([^;\s]+))', content_type)
    if found is None:
        raise Refused("A multipart body needs a boundary.")
    return (found[1] or found[2]).encode()


def described(body: bytes, boundary: bytes) -> tuple[Json, str, bytes]:
    """Returns the JSON, the content's type and the content of a multipart/related body.

    gcsfs ends lines with LF alone where RFC 2046 wants CRLF; both are understood. Raises Refused.
    """
    mark = b"--" + boundary
    begin = re.match(rb"\s*" + re.escape(mark) + rb"\r?\n", body)
    middle = re.compile(rb"\r?\n" + re.escape(mark) + rb"\r?\n").search(body)
    end = body.rfind(b"\n" + mark + b"--")
    if begin is None or middle is None or end < middle.end():
        raise Refused("The multipart body is not two parts.")
    if body[end - 1 : end] == b"\r":
        end -= 1
    _, description = headed(body[begin.end() : middle.start()])
    headers, content = headed(body[middle.end() : end])
    return parsed(description), headers.get("content-type", "application/octet-stream"), content


def parts(body: bytes, boundary: bytes) -> list[bytes]:
    """Returns the parts of a multipart/mixed body. Raises Refused."""
    mark = re.escape(b"--" + boundary)
    pieces = re.split(rb"(?:^|\r?\n)" + mark + rb"(?:--)?[ \t]*(?=\r?\n|$)", body)
    if len(pieces) < 3:
        raise Refused("The multipart body has no parts.")
    return [re.sub(rb"^\r?\n", b"", piece) for piece in pieces[1:-1]]


def headed(part: bytes) -> tuple[dict[str, str], bytes]:
    """Returns the headers of a part, their names in small letters, and what follows them.

    Raises Refused when no empty line ends the headers.
    """
    blank = re.search(rb"(?:^|\r?\n)\r?\n", part)
    if blank is None:
        raise Refused("A part has no headers.")
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1").strip()
        for name, value in _HEADER.findall(part[: blank.start()])
    }
    return headers, part[blank.end() :]
