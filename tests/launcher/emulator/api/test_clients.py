"""The documented request, as curl sends it and as Google's SDK does, both unmodified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator import sdk
from tests.launcher.emulator.running import Emulator, wait_for

LOCATION = "projects/a-project/locations/us-central1"


def pool(script: str) -> dict[str, Any]:
    return {
        "machine_spec": {"machine_type": "a2-highgpu-1g"},
        "replica_count": 1,
        "container_spec": {"image_uri": "an-image", "command": ["sh", "-c"], "args": [script]},
    }


def curl(emulator: Emulator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Sends a request with curl. Returns the status and the answer."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    command = [program, "-sS", "-X", method, "-w", "\n%{http_code}", "--noproxy", "*"]
    command += ["-H", f"Authorization: Bearer {emulator.token}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(
        [*command, f"{emulator.endpoint}/v1/{path}"], capture_output=True, text=True, check=True
    )
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(answer)


def request(script: str) -> dict[str, Any]:
    """The documented REST request."""
    return {
        "displayName": "a job",
        "jobSpec": {
            "workerPoolSpecs": [
                {
                    "machineSpec": {"machineType": "a2-highgpu-1g"},
                    "replicaCount": 1,
                    "containerSpec": {
                        "imageUri": "an-image",
                        "command": ["sh", "-c"],
                        "args": [script],
                    },
                }
            ],
            "scheduling": {"strategy": "SPOT"},
        },
    }


def test_curl(emulator: Emulator) -> None:
    jobs = f"{LOCATION}/customJobs"
    status, created = curl(emulator, "POST", jobs, request("echo hello"))
    assert (status, created["state"]) == (200, "JOB_STATE_QUEUED")
    name = created["name"]
    ended = wait_for(
        lambda: curl(emulator, "GET", name)[1],
        lambda job: job["state"] == "JOB_STATE_SUCCEEDED",
    )
    assert ended["jobSpec"]["scheduling"] == {"strategy": "SPOT"}
    assert emulator.output(name, "workerpool0-0") == ["hello"]

    query = "filter=state%3D%22JOB_STATE_SUCCEEDED%22%20OR%20display_name%3D%22x%22&pageSize=5"
    status, listed = curl(emulator, "GET", f"{jobs}?{query}")
    assert (status, [job["name"] for job in listed["customJobs"]]) == (200, [name])

    status, wrong = curl(emulator, "POST", jobs, {**request("true"), "spot": True})
    assert (status, wrong["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert wrong["error"]["message"] == (
        "Invalid JSON payload received. Unknown name \"spot\" at 'custom_job': Cannot find field."
    )
    (detail,) = wrong["error"]["details"]
    assert detail["fieldViolations"][0]["field"] == "custom_job"
    status, ended_already = curl(emulator, "POST", f"{name}:cancel", {})
    assert (status, ended_already["error"]["status"]) == (400, "FAILED_PRECONDITION")

    status, operation = curl(emulator, "DELETE", name)
    assert (status, operation["done"]) == (200, True)
    assert curl(emulator, "GET", operation["name"]) == (200, operation)
    status, gone = curl(emulator, "GET", name)
    assert (status, gone["error"]["status"]) == (404, "NOT_FOUND")
    assert curl(emulator, "GET", f"{LOCATION}/operations/1")[0] == 404

    _, running = curl(emulator, "POST", jobs, request("exec sleep 1000"))
    assert curl(emulator, "POST", f"{running['name']}:cancel", {}) == (200, {})
    emulator.until(f"/v1/{running['name']}", "CANCELLED")


def test_the_sdk(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    aiplatform = pytest.importorskip("google.cloud.aiplatform")
    exceptions = pytest.importorskip("google.api_core.exceptions")
    types = pytest.importorskip("google.cloud.aiplatform_v1.types")

    for name in ("STORAGE_EMULATOR_HOST", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"):
        monkeypatch.setenv(name, "")  # so that it is put back
    sdk.init(emulator.state, project="a-project", staging_bucket="gs://a-bucket")
    assert os.environ["STORAGE_EMULATOR_HOST"].startswith("http://127.0.0.1:")
    spot = types.Scheduling.Strategy.SPOT
    job = aiplatform.CustomJob(display_name="a job", worker_pool_specs=[pool("echo hello")])
    failing = aiplatform.CustomJob(display_name="fails", worker_pool_specs=[pool("exit 1")])
    for each in (job, failing):  # side by side: the SDK looks every five seconds
        each.run(scheduling_strategy=spot, sync=False)
    job.wait()  # returns when the job has succeeded
    assert job.state.name == "JOB_STATE_SUCCEEDED"
    assert emulator.output(job.resource_name, "workerpool0-0") == ["hello"]
    wire = emulator.get(f"/v1/{job.resource_name}")
    assert wire["jobSpec"]["scheduling"]["strategy"] == "SPOT"
    assert wire["jobSpec"]["baseOutputDirectory"]["outputUriPrefix"].startswith("gs://a-bucket/")

    with pytest.raises(RuntimeError, match="exited with status 1"):
        failing.wait()
    listed = aiplatform.CustomJob.list(filter='state="JOB_STATE_SUCCEEDED" AND display_name:"a *"')
    assert [each.resource_name for each in listed] == [job.resource_name]

    endless = aiplatform.CustomJob(display_name="b", worker_pool_specs=[pool("exec sleep 1000")])
    endless.submit(scheduling_strategy=spot)
    endless.cancel()
    emulator.until(f"/v1/{endless.resource_name}", "CANCELLED")
    assert endless.state.name == "JOB_STATE_CANCELLED"
    with pytest.raises(exceptions.BadRequest, match="final state"):
        endless.cancel()

    n1 = pool("true")
    n1["machine_spec"]["machine_type"] = "n1-standard-4"
    with pytest.raises(exceptions.BadRequest, match="cannot be a Spot VM"):
        aiplatform.CustomJob(display_name="c", worker_pool_specs=[n1]).submit(
            scheduling_strategy=spot
        )
    job.delete()
    with pytest.raises(exceptions.NotFound):
        aiplatform.CustomJob.get(job.resource_name)


def test_the_sdk_is_told_when_there_is_no_emulator(tmp_path: Path) -> None:
    with pytest.raises(sdk.NotRunning, match=f"swell emulator --state {tmp_path}"):
        sdk.init(tmp_path)
