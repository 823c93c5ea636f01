"""What is known of a run before it is launched: exactly what is sent, and what it costs."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from typer.testing import CliRunner

from launcher import home
from launcher.api.apierror import ApiError
from launcher.api.vertex import Jobs, JobState
from launcher.cli import app
from launcher.job import customjob
from launcher.job.job import Job
from launcher.job.machines import MACHINES, PRICES_AS_OF
from launcher.job.prices import PriceList
from launcher.local.buckets import LocalBuckets
from launcher.plan import costs, quotas
from launcher.run import launch
from launcher.target import load_job
from tests.launcher.job.job_fields import Fields, jobs
from tests.launcher.job.limits_table import base_job
from trainer.rundir.directory import RunDirectory

CATALOGUE = PriceList(MACHINES, PRICES_AS_OF)


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWELL_PRICES", raising=False)
    return tmp_path / "home"


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(base_job())
    return str(path)


def printed(*arguments: str) -> str:
    answer = CliRunner().invoke(app, ["plan", *arguments])
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout


BUCKETS = ["regions=[us-central1]", "checkpoint.buckets={us-central1: gs://central/runs}"]


NETWORK = "network=projects/1/global/networks/n"
FLEET = [NETWORK, "fleet=3"]
ANCHORED = [NETWORK, "fleet={jobs: 3, anchor: 1}"]


@pytest.mark.parametrize(
    "overrides",
    [[], ["pools.1.replicas=7"], ["env={A: $(HOME) é}"], BUCKETS, FLEET, ANCHORED],
)
def test_it_is_byte_for_byte_what_launch_sends(
    job_file: str, monkeypatch: pytest.MonkeyPatch, swell_home: Path, overrides: list[str]
) -> None:
    # The token is the one thing that a plan cannot know: launch is given the word that the plan
    # shows in its place, and then nothing may differ.
    sent: list[str] = []

    def refuse(api: Jobs, request: customjob.CustomJob) -> JobState:
        sent.append(customjob.serialise(request))
        raise ApiError("SW0001", "no", code=403, kind="permission")

    def kept_here(run_id: str, output: str | None, target: str) -> RunDirectory:
        return RunDirectory(home.directory_url(run_id, output), LocalBuckets(swell_home))

    monkeypatch.setattr(home, "issue_secret", lambda *run, alone: customjob.REDACTED)
    monkeypatch.setattr(home, "directory_for", kept_here)
    monkeypatch.setattr(Jobs, "submit", refuse)
    options = [part for text in overrides for part in ("--set", text)]
    shown = printed(job_file, "--run-id", "llama-1", "--format", "json", *options)
    run = launch(load_job(job_file, overrides), "vertex", "llama-1")
    assert run.wait(600).state == "failed", "the API takes nothing"
    assert sent[0] == shown
    assert len(sent) == load_job(job_file, overrides).fleet.jobs


class Wire(BaseHTTPRequestHandler):
    """Keeps the bodies that are posted, and answers like the API."""

    bodies: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"name": "projects/p/locations/r/customJobs/1", "state": 1}')

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_what_reaches_the_wire_means_what_the_plan_says(job_file: str) -> None:
    # Google's client encodes in its own way: enums as integers, no spaces, nothing empty.
    from google.cloud.aiplatform_v1.types import CustomJob

    shown = printed(job_file, "--run-id", "llama-1")
    with HTTPServer(("127.0.0.1", 0), Wire) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            Jobs("my-project", "us-central1", endpoint).submit(json.loads(shown))
        finally:
            server.shutdown()
            thread.join()
    assert len(Wire.bodies) == 1
    assert CustomJob.from_json(Wire.bodies.pop()) == CustomJob.from_json(shown)


@pytest.mark.parametrize(
    "output",
    [
        None,
        "/tmp/runs/",
        "runs",
        "~/runs",
        "gs://bucket-b/runs/",
        "gs://bucket-b",
        "file:///tmp/runs",
    ],
)
def test_it_knows_the_run_directory_that_launch_makes(output: str | None) -> None:
    known = home.directory_url("one-1", output)
    if not known.startswith("gs://"):
        assert known == RunDirectory(known).url == home.directory_for("one-1", output).url
    assert known.endswith("/one-1") and "//one" not in known


@given(jobs())
def test_a_saving_is_known_when_both_prices_are(fields: Fields) -> None:
    for cost in costs(Job.model_validate(fields), CATALOGUE):
        assert (cost.saving is None) == (cost.spot is None or cost.on_demand is None)


def test_a_total_is_unknown_when_one_part_is() -> None:
    pools = ["a2-highgpu-2g", "2 x a3-ultragpu-8g"]
    *_, total = costs(Job.model_validate({"name": "j", "task": "m:C", "pools": pools}), CATALOGUE)
    assert (total.replicas, total.gpus, total.spot, total.on_demand) == (3, 18, None, None)


def test_the_quota_is_that_of_the_gpu_and_of_the_strategy() -> None:
    fields = {"name": "j", "task": "m:C", "pools": ["a2-highgpu-8g", "a2-highgpu-8g"]}
    spot = Job.model_validate(fields)
    assert quotas(spot) == {"custom_model_training_preemptible_nvidia_a100_gpus": 16}
    mixed = ["a2-highgpu-8g", "2 x a3-highgpu-8g"]
    standard = Job.model_validate({**fields, "pools": mixed, "scheduling": "standard"})
    assert quotas(standard) == {
        "custom_model_training_nvidia_a100_gpus": 8,
        "custom_model_training_nvidia_h100_gpus": 16,
    }


def test_the_quota_is_that_of_all_jobs_of_a_fleet() -> None:
    fields = {"name": "j", "task": "m:C", "pools": ["a2-highgpu-8g", "2 x a2-highgpu-8g"]}
    assert quotas(Job.model_validate({**fields, "fleet": {"jobs": 4, "anchor": 1}})) == {
        "custom_model_training_nvidia_a100_gpus": 24,
        "custom_model_training_preemptible_nvidia_a100_gpus": 72,
    }
