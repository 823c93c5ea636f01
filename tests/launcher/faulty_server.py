"""An HTTP server that answers as CustomJobs and entries:list do, with faults on demand.

``faults`` is a list of what befalls the next requests, one each; None is a request that goes well.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.httpserver import LocalServer

Json = dict[str, Any]
Fault = Callable[["Handler"], None]


class FaultyServer(LocalServer):
    """The server; a context manager that leaves no thread and no port behind."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.endpoint = self.url
        self.faults: list[Fault | None] = []
        self.requests: list[str] = []  # "POST …/customJobs", in order
        self.bodies: list[Json] = []  # of entries:list
        self.jobs: dict[str, Json] = {}
        self.entries: Callable[[Json], Json] = lambda body: {}
        self.page = 2

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {urlsplit(self.path).path}")
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault is None:
            self.answer(*self.act())
        else:
            fault(self)

    do_GET = do_POST = do_DELETE = _handle

    def act(self) -> tuple[int, Json]:
        """Does what was asked. Returns the answer."""
        url, jobs = urlsplit(self.path), self.server.jobs
        query = parse_qs(url.query)
        name = url.path.removeprefix("/v1/")
        if url.path == "/v2/entries:list":
            self.server.bodies.append(json.loads(self.body))
            return 200, self.server.entries(json.loads(self.body))
        if self.command == "POST" and name.endswith("/customJobs"):
            job = {**json.loads(self.body), "name": f"{name}/{len(jobs) + 1}"}
            jobs[job["name"]] = {**job, "state": "JOB_STATE_PENDING"}
            return 200, jobs[job["name"]]
        if name.endswith("/customJobs"):
            start = int(query.get("pageToken", ["0"])[0])
            newest = list(reversed(jobs.values()))
            answer: Json = {"customJobs": newest[start : start + self.server.page]}
            if start + self.server.page < len(newest):
                answer["nextPageToken"] = str(start + self.server.page)
            return 200, answer
        job_name = name.removesuffix(":cancel")
        if job_name not in jobs:
            return 404, error_body(404, "NOT_FOUND", f"The CustomJob {job_name} does not exist.")
        if self.command == "DELETE":
            del jobs[job_name]
            return 200, {"name": "operations/1", "done": True, "response": EMPTY}
        if name.endswith(":cancel"):
            if jobs[job_name]["state"] == "JOB_STATE_CANCELLED":
                return 400, error_body(400, "FAILED_PRECONDITION", "The job has ended.")
            jobs[job_name]["state"] = "JOB_STATE_CANCELLED"
            return 200, {}
        return 200, jobs[job_name]

    def answer(
        self, code: int, body: Json | bytes, headers: dict[str, str] | None = None, more: int = 0
    ) -> None:
        """Sends an answer; with ``more`` it claims to be longer than it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data) + more))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def reset(self) -> None:
        """Drops the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()


EMPTY = {"@type": "type.googleapis.com/google.protobuf.Empty"}


def error_body(code: int, status: str, message: str, *details: Json) -> Json:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def refuses(code: int, status: str, message: str = "", *details: Json, **headers: str) -> Fault:
    """Answers an error; ``Retry_After="7"`` is a header of it."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda handler: handler.answer(
        code, error_body(code, status, message, *details), headers=named
    )


def says(code: int, body: bytes) -> Fault:
    """Answers something else than the API's JSON."""
    return lambda handler: handler.answer(code, body)


def resets_before(handler: Handler) -> None:
    """Drops the connection, and does nothing."""
    handler.reset()


def resets_after(handler: Handler) -> None:
    """Does what was asked, and drops the connection instead of saying so."""
    handler.act()
    handler.reset()


def cut_off(handler: Handler) -> None:
    """Does what was asked, and stops in the middle of the answer."""
    code, body = handler.act()
    handler.answer(code, json.dumps(body).encode()[:20], more=100)
    handler.close_connection = True


def hangs(handler: Handler) -> None:
    """Does what was asked, and never answers."""
    handler.act()
    handler.close_connection = True
    handler.server.over.wait()
