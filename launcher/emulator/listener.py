"""An HTTP server on one of this machine's addresses, inside a running event loop.

Whatever the emulator and the dashboard serve, they serve through here, so here is who may ask:

- From within this machine, programs of the server's own user, and root's. Such a connection has
  an owner, whom the kernel knows (launcher.emulator.peer).
- From a run's own network, the VMs in it. Linux answers at any interface for any of its addresses,
  so a socket is bound to its interface: what comes in by another one finds no port there.
- From nowhere a web page, in whoever's browser: it can reach what its reader can, but cannot hide
  where it comes from. (What is made for a browser says itself which pages may ask it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from launcher.emulator.peer import LOOPBACK, Address, owner


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # there are many servers in this process, and signals are for the whole of it


class _Guarded(H11Protocol):
    """One connection: who has the other end is looked up once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        near, far = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if far is None or not may_ask(near, far):
            self.app = _strangers


class Listener:
    """Serves one ASGI application from ``start`` to ``stop``, to those who may ask it.

    Args:
        app: what answers.
        address: the address to listen on.
        port: the port; 0 for any free one.
        device: the interface at which requests arrive.
        for_pages: whether web pages may ask, too, as far as the application lets them.

    Raises OSError when that address and port cannot be had at that interface.
    """

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        port: int = 0,
        device: str = LOOPBACK,
        for_pages: bool = False,
    ) -> None:
        if port and _is_served(address, port):  # by another emulator of this user
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        # Bound here, so that the port is known before anything is served.
        try:
            self._reservation = _bound(address, port, device, _KEEPING)
        except OSError:
            # Connections that a killed emulator has left are there for a minute. Whatever runs
            # since then holds a reservation as it should be.
            self._reservation = _bound(address, port, device, _SERVING)
        self.address = address
        self.port: int = self._reservation.getsockname()[1]
        try:
            self.socket = _bound(address, self.port, device, _SERVING)
            self.socket.listen(128)
        except BaseException:
            self._reservation.close()
            raise
        names = {address, "localhost"} if address == "127.0.0.1" else {address}
        self._server = _Server(
            uvicorn.Config(
                app if for_pages else _without_pages(app, names),
                http=_Guarded,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def authority(self) -> str:
        """``address:port``."""
        return f"{self.address}:{self.port}"

    @property
    def reserved(self) -> int:
        """An open file: whoever has it open keeps the port for the next Listener, by its number.

        It does not listen. While nobody does, connections are refused, and no other user can have
        the port.
        """
        return self._reservation.fileno()

    def start(self) -> None:
        """Begins to answer."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self.socket]))

    async def stop(self) -> None:
        """Closes the port and all connections."""
        self._reservation.close()
        if self._serving is None:
            self.socket.close()
            return
        self._server.should_exit = True
        await self._serving


# A port with SO_REUSEADDR is anybody's to listen on as long as nobody does; one without it, but
# with SO_REUSEPORT, is that of programs of the same user. Connections are of the first kind: else
# those that are still to be closed would keep the next emulator from its port.
_KEEPING = (socket.SO_REUSEPORT,)
_SERVING = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def _is_served(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1.0):
        return True
    return False


def _bound(address: str, port: int, device: str, options: Sequence[int]) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is said: 45 ms an answer.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    for option in options:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        # Before Linux 5.7 only root may do this; at loopback it only makes sure of what the
        # kernel does by itself, unless it was told otherwise (route_localnet).
        with contextlib.suppress(*([PermissionError] if device == LOOPBACK else [])):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        made.bind((address, port))
    except BaseException:
        made.close()
        raise
    return made


def may_ask(
    near: Address, far: Address, owner_of: Callable[[Address, Address], int | None] = owner
) -> bool:
    """Whether what is at the far end of a connection may use what this user's emulator serves.

    Args:
        near: address and port of this end.
        far: of the other.
        owner_of: whose the far end is, if it is on this machine.
    """
    if far[0] != near[0] and _network(far) == _network(near) != "127.0.0":
        return True  # a VM: at its network's interface nothing else has such an address
    return owner_of(near, far) in (os.geteuid(), 0)


def _network(end: Address) -> str:
    return end[0].rpartition(".")[0]  # those of VMs have 254 addresses


def is_page(headers: Mapping[str, str], names: Collection[str]) -> bool:
    """Whether a request comes from a web page, or may do so.

    A browser says the page's Origin, or at least whose a request is (Sec-Fetch-Site), and it asks
    for the host that is in the page's address, whatever address that name has been given.

    Args:
        headers: the request's.
        names: what a program calls this server.
    """
    host = headers.get("host", "").rpartition(":")
    return (
        "origin" in headers
        or "sec-fetch-site" in headers
        or (host[0] or host[2]).lower() not in names
    )


def _without_pages(app: ASGIApp, names: Collection[str]) -> ASGIApp:
    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        page = scope["type"] == "http" and is_page(Headers(scope=scope), names)
        await (_refusal("Only programs may use the emulator, no web pages.") if page else app)(
            scope, receive, send
        )

    return checked


def _refusal(why: str) -> JSONResponse:
    error: dict[str, Any] = {"code": 403, "message": why, "status": "PERMISSION_DENIED"}
    return JSONResponse({"error": error}, 403)


async def _strangers(scope: Scope, receive: Receive, send: Send) -> None:
    why = "Only programs of the user who started the emulator may use it."
    await _refusal(why)(scope, receive, send)
