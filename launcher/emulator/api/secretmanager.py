"""The emulated Secret Manager: as much of its REST API as delivers a run's secret.

Versions are added and destroyed through the API, by whoever may use that, and accessed by VMs: at
their metadata server's port, with the access token that they got there. A VM gets the versions that
its job names in its variables, and no other run's. Contents are kept in ``<state>/secrets.json``,
which only the emulator's user can read.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from launcher.emulator.resources.errors import (
    ApiError,
    failed_precondition,
    invalid_argument,
    not_found,
)
from launcher.emulator.token import shows
from trainer.rundir.private import write_private

SECRET = "/v1/projects/{project}/secrets/{secret}"
VERSION = SECRET + "/versions/{version}"
PAYLOAD_LIMIT = 64 * 1024  # bytes, as in Secret Manager

Handler = Callable[[Request], Awaitable[Response]]


class Secrets:
    """Secrets, each with its versions; a destroyed version is None.

    Args:
        path: the file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def _versions(self) -> dict[str, list[str | None]]:
        # Not before somebody asks: another emulator may have held the state directory.
        kept: dict[str, list[str | None]] = {}
        if self._path.exists():
            kept = json.loads(self._path.read_text())
        return kept

    def add(self, secret: str, data: str) -> str:
        """Adds a version to ``projects/P/secrets/S``, which is made. Returns its name."""
        try:
            size = len(base64.b64decode(data, validate=True))
        except (ValueError, binascii.Error):
            raise invalid_argument("payload.data is not base64.") from None
        if not 0 < size <= PAYLOAD_LIMIT:
            raise invalid_argument(f"payload.data must have 1 to {PAYLOAD_LIMIT} bytes.")
        versions = self._versions.setdefault(secret, [])
        versions.append(data)
        self._save()
        return f"{secret}/versions/{len(versions)}"

    def access(self, secret: str, version: str) -> tuple[str, str]:
        """Returns the name and the content of a version; ApiError when there is none."""
        number, data = self._find(secret, version)
        name = f"{secret}/versions/{number}"
        if data is None:
            raise failed_precondition(f"{name} is in DESTROYED state.")
        return name, data

    def destroy(self, secret: str, version: str) -> str:
        """Forgets the content of a version. Returns its name."""
        number, _ = self._find(secret, version)
        self._versions[secret][number - 1] = None
        self._save()
        return f"{secret}/versions/{number}"

    def _find(self, secret: str, version: str) -> tuple[int, str | None]:
        versions = self._versions.get(secret, [])
        number = len(versions) if version == "latest" else _number(version)
        if not 0 < number <= len(versions):
            raise not_found(f"Secret Version [{secret}/versions/{version}] not found.")
        return number, versions[number - 1]

    def _save(self) -> None:
        write_private(self._path, json.dumps(self._versions, indent=1))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


class Handlers:
    """The handlers of the launcher's routes: they add and destroy versions.

    Args:
        secrets: what they work on.
        read: reads a request's body, a JSON object.
    """

    def __init__(
        self, secrets: Secrets, read: Callable[[Request], Awaitable[dict[str, Any]]]
    ) -> None:
        self._secrets = secrets
        self._read = read

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler) of each."""
        return [
            ("POST", SECRET + ":addVersion", self.add),
            ("POST", VERSION + ":destroy", self.destroy),
        ]

    async def add(self, request: Request) -> Response:
        """POST :addVersion."""
        payload = (await self._read(request)).get("payload")
        data = payload.get("data") if isinstance(payload, dict) else None
        if not isinstance(data, str):
            raise invalid_argument("payload.data is missing.")
        return JSONResponse({"name": self._secrets.add(_secret(request), data), "state": "ENABLED"})

    async def destroy(self, request: Request) -> Response:
        """POST :destroy."""
        await self._read(request)
        version = request.path_params["version"]
        name = self._secrets.destroy(_secret(request), version)
        return JSONResponse({"name": name, "state": "DESTROYED"})


def access_route(secrets: Secrets, access_token: str, named: Collection[str]) -> Route:
    """The route by which a job's VMs read a version.

    Args:
        secrets: where it is.
        access_token: what the metadata servers of these VMs give out.
        named: what the job has in its variables; a version is read only if it is among that.
    """

    async def access(request: Request) -> Response:
        secret, version = _secret(request), request.path_params["version"]
        try:
            if not shows(request.headers.get("Authorization", ""), access_token):
                raise ApiError(401, "UNAUTHENTICATED", "An access token is needed.")
            if f"{secret}/versions/{version}" not in named:
                raise ApiError(
                    403,
                    "PERMISSION_DENIED",
                    "This job does not name that version in its variables.",
                )
            name, data = secrets.access(secret, version)
        except ApiError as error:
            return JSONResponse(error.body(), error.code)
        return JSONResponse({"name": name, "payload": {"data": data}})

    return Route(VERSION + ":access", access, methods=["GET"])


def _secret(request: Request) -> str:
    return f"projects/{request.path_params['project']}/secrets/{request.path_params['secret']}"
