"""An HTTP server on one of this machine's addresses, inside a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # there are many servers in this process, and signals are for the whole of it


class Listener:
    """Serves one ASGI application from ``start`` to ``stop``.

    Args:
        app: what answers.
        address: the address to listen on.
        port: the port; 0 for any free one.
    """

    def __init__(self, app: ASGIApp, address: str, port: int = 0) -> None:
        # Bound here, so that the port is known before anything is served.
        # asyncio turns Nagle's algorithm off only where the protocol is said: 45 ms an answer.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((address, port))
            self._socket.listen(128)
        except BaseException:
            self._socket.close()
            raise
        self.address = address
        self.port: int = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def authority(self) -> str:
        """``address:port``."""
        return f"{self.address}:{self.port}"

    def start(self) -> None:
        """Begins to answer."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Closes the port and all connections."""
        if self._serving is None:
            self._socket.close()
            return
        self._server.should_exit = True
        await self._serving
