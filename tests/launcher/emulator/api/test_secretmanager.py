"""The emulated Secret Manager: what delivers a run's secret, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from launcher.api.delivery import delivered
from launcher.emulator.api.secretmanager import Secrets, access_route
from launcher.emulator.resources.errors import ApiError
from launcher.job.job import Job
from tests.launcher.emulator.running import Emulator, pool
from trainer.rundir.directory import RunDirectory

SECRET = "projects/p/secrets/swell"
DATA = base64.b64encode(b"the secret").decode()
JOB = Job.model_validate(
    {"name": "x", "task": "a:B", "pools": [{"machine": "a2-highgpu-1g"}], "token_secret": SECRET}
)


def test_versions_count_up_and_can_be_destroyed(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets.json")
    assert [secrets.add(SECRET, DATA) for _ in range(2)] == [
        f"{SECRET}/versions/1",
        f"{SECRET}/versions/2",
    ]
    secrets.destroy(SECRET, "1")
    again = Secrets(tmp_path / "secrets.json")  # after a restart of the emulator
    assert again.access(SECRET, "latest") == (f"{SECRET}/versions/2", DATA)
    with pytest.raises(ApiError, match="DESTROYED"):
        again.access(SECRET, "1")
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("version", ["0", "2", "-1", "x", "", "1e3", "²", "9" * 5000])
def test_there_is_no_other_version(tmp_path: Path, version: str) -> None:
    secrets = Secrets(tmp_path / "secrets.json")
    secrets.add(SECRET, DATA)
    with pytest.raises(ApiError, match="not found"):
        secrets.access(SECRET, version)


def ask(
    secrets: Secrets, authorization: str | None, version: str = "1", named: tuple[str, ...] = ()
) -> httpx.Response:
    """A VM's request for a version; its job names ``named`` in its variables."""
    app = Starlette(routes=[access_route(secrets, "right", named)])
    headers = {} if authorization is None else {"Authorization": authorization}

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
            return await client.get(
                f"http://vm/v1/{SECRET}/versions/{version}:access", headers=headers
            )

    return asyncio.run(get())


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "right"])
def test_a_vm_shows_its_access_token(tmp_path: Path, authorization: str | None) -> None:
    secrets = Secrets(tmp_path / "secrets.json")
    version = secrets.add(SECRET, DATA)
    assert ask(secrets, authorization, named=(version,)).status_code == 401
    answer = ask(secrets, "Bearer right", named=(version, "another value"))
    assert answer.json() == {"name": version, "payload": {"data": DATA}}


@pytest.mark.parametrize("version", ["1", "latest", "01"])
def test_a_vm_gets_the_version_that_its_job_names_and_no_other(
    tmp_path: Path, version: str
) -> None:
    secrets = Secrets(tmp_path / "secrets.json")
    secrets.add(SECRET, DATA)
    own = secrets.add(SECRET, DATA)
    answer = ask(secrets, "Bearer right", version, named=(own,))
    assert answer.json()["error"]["status"] == "PERMISSION_DENIED"
    assert ask(secrets, "Bearer right", "latest", (f"{SECRET}/versions/latest",)).json() == {
        "name": own,
        "payload": {"data": DATA},
    }


@pytest.mark.parametrize(
    "body", [{}, {"payload": 1}, {"payload": {"data": 1}}, {"payload": {"data": "*"}}]
)
def test_what_is_no_payload_is_refused(emulator: Emulator, body: dict[str, Any]) -> None:
    answer = emulator.http.post(f"/v1/{SECRET}:addVersion", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_a_secret_lives_as_long_as_its_run(start: Callable[..., Emulator], tmp_path: Path) -> None:
    emulator = start()
    run_dir = RunDirectory(str(tmp_path / "run"))
    with delivered(JOB, "the secret", run_dir, emulator.endpoint, emulator.token) as version:
        assert version == f"{SECRET}/versions/1"
    kept = emulator.state / "secrets.json"
    assert json.loads(kept.read_text()) == {SECRET: [DATA]}, "the launcher went, the run goes on"
    with delivered(JOB, "the secret", run_dir, emulator.endpoint, emulator.token):
        run_dir.end("succeeded", "")
    assert json.loads(kept.read_text()) == {SECRET: [DATA, None]}


def test_the_api_does_not_answer_with_the_secret_of_a_run(emulator: Emulator) -> None:
    env = [{"name": "SWELL_TOKEN", "value": "secret"}, {"name": "OTHER", "value": "shown"}]
    job = emulator.create(pool('test "$SWELL_TOKEN" = secret', env=env))
    emulator.until(job, "SUCCEEDED")
    for path in (job, job.rpartition("/")[0]):
        said = emulator.http.get(path).text
        assert "shown" in said and '"secret"' not in said
