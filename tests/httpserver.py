"""An HTTP server in a thread of the test, which leaves no thread and no port behind."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

S = TypeVar("S", bound="LocalServer")


class LocalServer(ThreadingHTTPServer):
    """Serves while its context is open.

    Attributes:
        url: where.
        over: set when it ends; a handler that hangs waits for it.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self: S) -> S:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
