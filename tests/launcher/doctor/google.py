"""A small Google Cloud over HTTP: what ``swell doctor`` asks of it, all of it as it should be.

``wrong`` maps the beginning of "METHOD /path" to what is answered instead: a status code and an
object. The forms are those of the public REST references.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.httpserver import LocalServer

Json = dict[str, Any]

METRIC = "custom_model_training_preemptible_nvidia_a100_gpus"
ACCOUNT = "service-123@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"


def error(code: int, message: str, **info: Any) -> tuple[int, Json]:
    """An answer as Google's APIs refuse."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info}] if info else []
    return code, {"error": {"code": code, "message": message, "details": details}}


class Google(LocalServer):
    """The server; a context manager."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.wrong: dict[str, tuple[int, Json]] = {}
        self.requests: list[str] = []
        self.asked: list[Json] = []
        self.hangs = False

    @property
    def endpoints(self) -> dict[str, str]:
        names = ["cloudresourcemanager", "iam", "policytroubleshooter", "serviceusage", "storage"]
        return dict.fromkeys([*names, "registry"], self.url)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""

    def answer(self, method: str, path: str, body: Json) -> tuple[int, Json]:
        for beginning, answer in self.wrong.items():
            if f"{method} {path}".startswith(beginning):
                return answer
        if path.endswith(":testIamPermissions"):
            return 200, {"permissions": body["permissions"]}
        if path == "/v1/projects/p":
            return 200, {"projectId": "p", "projectNumber": "123"}
        if path == "/v1/iam:troubleshoot":
            return 200, {"access": "GRANTED"}
        if path == "/storage/v1/b/bucket":
            return 200, {"name": "bucket", "location": "US-CENTRAL1", "locationType": "region"}
        if "consumerQuotaMetrics" in path:
            buckets = [
                {"effectiveLimit": "0", "defaultLimit": "0"},
                {"effectiveLimit": "16", "dimensions": {"region": "us-central1"}},
                {"effectiveLimit": "1", "dimensions": {"region": "us-east1"}},
            ]
            return 200, {"consumerQuotaLimits": [{"quotaBuckets": buckets}]}
        if path.startswith("/v1/projects/p/locations/"):
            return 200, {"customJobs": []}
        if path.startswith(("/upload/storage/v1/b/bucket/o", "/storage/v1/b/bucket/o/", "/v2/")):
            return 200, {}
        return error(404, f"{path} is not here")


class _Handler(BaseHTTPRequestHandler):
    server: Google

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        body: Json = json.loads(raw) if raw else {}
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        self.server.asked.append(body)
        if self.server.hangs:
            self.server.over.wait()
        code, answer = self.server.answer(self.command, path, body)
        data = b"" if self.command == "HEAD" else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = _any

    def log_message(self, *args: object) -> None:
        """Says nothing."""
