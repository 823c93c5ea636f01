"""The metadata server of one VM: token, project, zone, and the notice of preemption."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

FLAVOR = {"Metadata-Flavor": "Google"}
ROOT = "/computeMetadata/v1"
EMAIL = "swell-emulator@local.iam.gserviceaccount.com"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
TOKEN_SECONDS = 3599
LONGEST_WAIT = 3600.0  # seconds of one long poll


@dataclass(frozen=True)
class Identity:
    """What a VM can ask about itself."""

    project: str
    region: str
    hostname: str
    address: str


class Metadata:
    """What the metadata server of one VM says now, and whether it says anything.

    Args:
        identity: what the VM is.
        access_token: what the VM gets to show to other services.
        further: routes of other services that the VM reaches at the same port.
        tells: whether it says if the VM is to be preempted; nobody knows if Vertex AI's does.
    """

    def __init__(
        self,
        identity: Identity,
        access_token: str,
        further: Sequence[Route] = (),
        tells: bool = True,
    ) -> None:
        self.identity = identity
        self.access_token = access_token
        self._further = further
        self._tells = tells
        self._preempted = asyncio.Event()
        self._reachable = asyncio.Event()
        self._reachable.set()

    @property
    def preempted(self) -> bool:
        """Whether the VM has been told that it will be preempted."""
        return self._preempted.is_set()

    def preempt(self) -> None:
        """Tells the VM, and whoever is waiting to hear it."""
        self._preempted.set()

    def silence(self) -> None:
        """From now on requests get no answer, and pending ones do not either."""
        self._reachable.clear()

    def reset(self) -> None:
        """Makes this the metadata of a new VM; requests of the old one come back to nobody."""
        self.close()
        self._preempted = asyncio.Event()
        self._reachable = asyncio.Event()
        self._reachable.set()

    def close(self) -> None:
        """Lets go of every pending request."""
        self._preempted.set()
        self._reachable.set()

    async def reachable(self) -> None:
        """Returns when the VM's network works."""
        await self._reachable.wait()

    async def until_preempted(self, seconds: float) -> None:
        """Returns when the VM has been told, or after ``seconds``."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._preempted.wait(), seconds)

    def app(self) -> Starlette:
        """Returns the server's application."""
        values = Values(self)
        return Starlette(
            routes=[
                Route("/", values.root),
                *([Route(f"{ROOT}/instance/preempted", values.preempted)] if self._tells else ()),
                Route(f"{ROOT}/instance/service-accounts/default/token", values.token),
                Route(f"{ROOT}/{{path:path}}", values.plain),
                *self._further,
            ],
        )


class Values:
    """The handlers of one metadata server."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        identity = metadata.identity
        account = {"aliases": ["default"], "email": EMAIL, "scopes": SCOPES}
        self._objects = {
            "instance/service-accounts": {"default": account, EMAIL: account},
            "instance/service-accounts/default": account,
        }
        self._texts = {
            "project/project-id": identity.project,
            "project/numeric-project-id": numeric_project(identity.project),
            "instance/id": str(int.from_bytes(identity.hostname.encode()[-7:], "big")),
            "instance/name": identity.hostname,
            "instance/hostname": f"{identity.hostname}.c.{identity.project}.internal",
            "instance/zone": (
                f"projects/{numeric_project(identity.project)}/zones/{identity.region}-a"
            ),
            "instance/network-interfaces/0/ip": identity.address,
            "instance/maintenance-event": "NONE",
            "instance/service-accounts/default/email": EMAIL,
            "instance/service-accounts/default/scopes": "\n".join(SCOPES) + "\n",
        }

    async def root(self, request: Request) -> Response:
        """How clients find out that this is a metadata server, some without the header."""
        await self._metadata.reachable()
        return PlainTextResponse("computeMetadata/\n", headers=FLAVOR)

    async def plain(self, request: Request) -> Response:
        """A value that does not change, or an object when asked for recursively."""
        if refusal := await self._refusal(request):
            return refusal
        path = request.path_params["path"].rstrip("/")
        if path in self._objects and request.query_params.get("recursive", "").lower() == "true":
            return JSONResponse(self._objects[path], headers=FLAVOR)
        if path in self._texts:
            return PlainTextResponse(self._texts[path], headers=FLAVOR)
        return PlainTextResponse(f"{path} is not emulated\n", 404, headers=FLAVOR)

    async def token(self, request: Request) -> Response:
        """An access token, which is good for nothing outside the emulator and this job."""
        if refusal := await self._refusal(request):
            return refusal
        token = {
            "access_token": self._metadata.access_token,
            "expires_in": TOKEN_SECONDS,
            "token_type": "Bearer",
        }
        return JSONResponse(token, headers=FLAVOR)

    async def preempted(self, request: Request) -> Response:
        """FALSE, or TRUE once the VM is to be preempted; ``wait_for_change`` waits for that.

        TRUE is answered at once even to who waits for a change: it never changes again.
        """
        if refusal := await self._refusal(request):
            return refusal
        query = request.query_params
        if query.get("wait_for_change", "").lower() == "true" and query.get("last_etag") in (
            None,
            self._etag(),
        ):
            try:
                seconds = min(float(query.get("timeout_sec", LONGEST_WAIT)), LONGEST_WAIT)
            except ValueError:
                return PlainTextResponse("timeout_sec must be a number\n", 400, headers=FLAVOR)
            await self._metadata.until_preempted(seconds)
            await self._metadata.reachable()
        value = "TRUE" if self._metadata.preempted else "FALSE"
        return PlainTextResponse(value, headers={**FLAVOR, "ETag": self._etag()})

    def _etag(self) -> str:
        return f"{int(self._metadata.preempted):016x}"

    async def _refusal(self, request: Request) -> Response | None:
        await self._metadata.reachable()
        if request.headers.get("Metadata-Flavor") != "Google":
            text = "Missing header: Metadata-Flavor: Google\n"
        elif "X-Forwarded-For" in request.headers:  # from a proxy, for who knows whom
            text = "X-Forwarded-For is not allowed\n"
        else:
            return None
        return PlainTextResponse(text, 403, headers=FLAVOR)


def numeric_project(project: str) -> str:
    """The number of a project: its own if it is one, else one made from the name."""
    if project.isdigit():
        return project
    return str(10**11 + int.from_bytes(project.encode(), "big") % (9 * 10**11))
