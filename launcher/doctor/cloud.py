"""Google's APIs as the checks ask them: plain JSON over HTTPS, errors as ApiError.

Whether a job can run is known to many APIs, of which the checks need a method or two each. So
they are asked over REST, as Cloud Logging is (logs.cloudlog), not through a client of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from launcher.api.apierror import GARBLED, ApiError, Service, read_answer, refusal
from launcher.api.transport import session, translated

TIMEOUT = 10.0  # seconds for one answer

# The REST APIs: name for people, host, and the role that allows what is asked.
APIS: Mapping[str, tuple[str, str, str]] = {
    "cloudresourcemanager": ("Resource Manager", "cloudresourcemanager", "roles/browser"),
    "iam": ("IAM", "iam", "roles/iam.serviceAccountViewer"),
    "policytroubleshooter": (
        "Policy Troubleshooter",
        "policytroubleshooter",
        "roles/iam.securityReviewer",
    ),
    "serviceusage": ("Service Usage", "serviceusage", "roles/serviceusage.serviceUsageConsumer"),
    "storage": ("Cloud Storage", "storage", "roles/storage.admin"),
}


class Unserved(ApiError):
    """An API that there is not, because an emulator stands for Google's."""

    def __init__(self, name: str) -> None:
        super().__init__("SW3017", f"{name}: an emulator does not have it", kind="silent")


class Cloud:
    """What Google knows of a project.

    Args:
        project: the project's id.
        endpoints: base URLs of APIs that are elsewhere than at Google's.
        emulated: whether APIs that are not in ``endpoints`` are not there at all.
        open_session: makes a requests.Session for a base URL.
        timeout: seconds for one answer.
    """

    def __init__(
        self,
        project: str,
        endpoints: Mapping[str, str] | None = None,
        *,
        emulated: bool = False,
        open_session: Callable[[str], Any] = session,
        timeout: float = TIMEOUT,
    ) -> None:
        self.project = project
        self.emulated = emulated
        self._endpoints = dict(endpoints or {})
        self._open_session = open_session
        self._timeout = timeout

    def get(self, api: str, path: str, **params: str) -> dict[str, Any]:
        """Returns what a GET of ``path`` answers. Raises ApiError."""
        return self._json(api, "GET", path, params=params)

    def post(self, api: str, path: str, body: Any = None, **params: str) -> dict[str, Any]:
        """Returns what a POST of ``body``, as JSON, answers. Raises ApiError."""
        return self._json(api, "POST", path, params=params, json=body)

    def upload(self, path: str, data: bytes, **params: str) -> None:
        """Sends bytes to Cloud Storage. Raises ApiError."""
        self._ask("storage", "POST", path, params=params, data=data)

    def delete(self, api: str, path: str) -> None:
        """Deletes what is at ``path``. Raises ApiError."""
        self._ask(api, "DELETE", path)

    def head(self, host: str, path: str, headers: Mapping[str, str]) -> None:
        """Asks a registry of images whether there is ``path``. Raises ApiError."""
        base = self._endpoints.get("registry") or f"https://{host}"
        if self.emulated and "registry" not in self._endpoints:
            raise Unserved(host)
        role = "roles/artifactregistry.reader"
        service = Service(host, "artifactregistry.googleapis.com", role, self.project, base)
        self._send(service, "HEAD", f"{base}/{path}", headers=dict(headers))

    def _json(self, api: str, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._ask(api, method, path, **options)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(GARBLED, f"{APIS[api][0]} answered what is not its JSON", kind="silent")
        return answer

    def _ask(self, api: str, method: str, path: str, **options: Any) -> Any:
        name, host, role = APIS[api]
        if self.emulated and api not in self._endpoints:
            raise Unserved(name)
        base = self._endpoints.get(api) or f"https://{host}.googleapis.com"
        service = Service(name, f"{host}.googleapis.com", role, self.project, base)
        return self._send(service, method, f"{base}/{path}", **options)

    def _send(self, service: Service, method: str, url: str, **options: Any) -> Any:
        try:
            return self._sent(service, method, url, **options)
        except ApiError as error:
            # A run needs to write, but not that whoever launches may look.
            looking = method in ("GET", "HEAD") or "storage" not in service.api
            if looking and error.kind in ("disabled", "permission"):
                raise ApiError(error.id, str(error), kind="silent", code=error.code) from None
            raise

    def _sent(self, service: Service, method: str, url: str, **options: Any) -> Any:
        try:
            with self._open_session(service.endpoint) as opened:
                response = opened.request(
                    method, url, timeout=self._timeout, allow_redirects=False, **options
                )
                if not 200 <= response.status_code < 300:
                    answer = read_answer(response.status_code, response.text, response.headers)
                    raise refusal(answer, service)
                return response
        except Exception as error:  # whatever the libraries raise; see launcher.api.transport
            raise translated(error, service) from None
