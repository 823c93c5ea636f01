"""Batches: several requests in the body of one, each answered in a part of the answer."""

from __future__ import annotations

import http
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from launcher.emulator.storage import multipart, wire
from launcher.emulator.storage.errors import Refused

LIMIT = 1000  # requests
BODY_LIMIT = 16 * 2**20  # bytes

Answer = Callable[[Request], Awaitable[Response]]


async def answered(request: Request, answer: Answer) -> Response:
    """Returns the answers to a batch's requests, in their order. Raises Refused.

    Args:
        request: with the batch in its body.
        answer: answers one of them.
    """
    boundary = multipart.boundary(request.headers.get("content-type", ""))
    parts = multipart.parts(await wire.read_body(request, BODY_LIMIT), boundary)
    if len(parts) > LIMIT:
        raise Refused(f"A batch has at most {LIMIT} requests.")
    mark = f"batch_{uuid.uuid4().hex}"
    body = b""
    for part in parts:
        headers, said = multipart.headed(part)
        response = await answer(_request(request, said))
        about = _described(headers.get("content-id", ""), response)
        body += f"--{mark}\r\n{about}\r\n\r\n".encode() + bytes(response.body) + b"\r\n"
    body += f"--{mark}--\r\n".encode()
    return Response(body, headers={"Content-Type": f"multipart/mixed; boundary={mark}"})


def _request(outer: Request, said: bytes) -> Request:
    """One request of a batch, as if it had come by itself. Raises Refused."""
    first, _, rest = said.lstrip().partition(b"\n")
    words = first.decode("latin-1").split()
    if len(words) not in (2, 3):
        raise Refused(f"{first[:80]!r} is no request.")
    target = urlsplit(words[1])
    if target.path.split("/")[1:2] != ["storage"] or "alt=media" in target.query:
        raise Refused("A batch may not upload or download content.")
    # One without a body may end with its headers; JSON does not mind what is added to the others.
    headers, body = multipart.headed(rest + b"\r\n\r\n")
    own = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: dict[str, Any] = {
        **outer.scope,
        "method": words[0].upper(),
        "path": target.path,
        "raw_path": target.path.encode("latin-1"),
        "query_string": target.query.encode("latin-1"),
        "headers": [(b"host", outer.headers.get("host", "").encode("latin-1")), *own],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


def _described(content_id: str, response: Response) -> str:
    phrase = http.HTTPStatus(response.status_code).phrase
    lines = ["Content-Type: application/http"]
    if content_id:
        lines.append(f"Content-ID: <response-{content_id.strip('<>')}>")
    lines += ["", f"HTTP/1.1 {response.status_code} {phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return "\r\n".join(lines)
