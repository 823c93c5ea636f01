"""Who may use the dashboard: whoever has its address, from a browser of this user.

The listener lets in connections of this user alone (launcher.emulator.listener). Of what comes by
those, a page of somebody else's is the danger, in the user's own browser:

- The address has a token in its path, new with every start. It is printed, and nowhere else: there
  is no log of requests, and no cookie, which a browser would also send to other ports.
- The Host has to be this machine's. A name that an attacker gives this address (DNS rebinding) is
  another.
- An Origin, or what else a browser says about who asks, has to be the dashboard's own; whatever
  changes something has to say it.
- Pages load and run nothing but the dashboard's own files, are in no frame, and are not kept. Their
  address goes to nobody else as a Referer. (Not ``no-referrer``: then a form would not say where
  it comes from, either.)
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer.rundir import usererror

REFUSED = "SW6292"  # the message to who may not use it
NAMES = frozenset({"127.0.0.1", "localhost"})
_READING = frozenset({"GET", "HEAD"})
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # pictures bring their own
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """Returns a token of 256 random bits that can be in an address."""
    return secrets.token_urlsafe(32)


class Guard:
    """An application behind its token: what asks for ``/TOKEN/x``, the application sees ask ``/x``.

    Args:
        app: the application.
        token: what the path has to begin with.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        _, shown, *rest = f"{scope['path']}/".split("/", 2)
        why = refusal(str(scope["method"]), headers)
        if why is None and not hmac.compare_digest(shown.encode(errors="replace"), self._token):
            why = "this is not the address that swell dashboard has printed; copy all of it"
        app = self._app if why is None else _refusing(why)
        path = f"/{rest[0]}".rstrip("/") or "/"
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await app(inner, receive, with_headers)


def refusal(method: str, headers: Mapping[str, str]) -> str | None:
    """Returns why a request may not come from a page of the dashboard's own; None if it may.

    Args:
        method: GET, POST, ….
        headers: the request's, by lower-case names.
    """
    host = headers.get("host", "")
    name, _, port = host.rpartition(":")
    if (name if port.isdecimal() else host).lower() not in NAMES:
        return "the dashboard is at 127.0.0.1 or localhost, and goes by no other name"
    origin = headers.get("origin")
    if origin is None and method not in _READING:
        return "only the dashboard's own pages may change something"
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return "pages of other sites may not use the dashboard"
    # "none": the user has typed or opened the address; a link of another site is "cross-site".
    site = headers.get("sec-fetch-site", "same-origin")
    own = {"same-origin", "none"} if method in _READING else {"same-origin"}
    return None if site in own else "pages of other sites may not use the dashboard"


def _refusing(why: str) -> ASGIApp:
    return PlainTextResponse(f"swell: {usererror.Message(REFUSED, why)}\n", 403)
