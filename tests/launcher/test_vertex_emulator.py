"""The client and the commands that use it, against the emulator: a run on "Vertex AI" from a
machine whose launch is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher import home
from launcher.api.apierror import ApiError
from launcher.api.retry import Retries
from launcher.api.vertex import Jobs
from launcher.cli import app
from launcher.job.customjob import build
from launcher.job.job import Job
from tests.launcher.emulator.running import PATIENCE, Emulator, wait_for
from tests.launcher.recorded_run import record_attempt
from trainer.rundir.retry import ONCE

pytest.importorskip("google.cloud.aiplatform_v1")

SCRIPT = 'i=0; while true; do echo "line $i"; i=$((i + 1)); sleep 0.01; done'


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    emulator = Emulator(tmp_path_factory.mktemp("emulator") / "state", "--until-eof", "--open")
    yield emulator
    assert emulator.stop() == 0


@pytest.fixture
def jobs(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", emulator.endpoint)
    monkeypatch.setenv("SWELL_VERTEX_TOKEN_FILE", str(emulator.state / "token"))
    return Jobs("p", "us-central1", retries=Retries(ONCE))


def launched(jobs: Jobs, run_id: str, script: str = SCRIPT) -> str:
    """Does what a launch does before it dies. Returns the CustomJob's name."""
    job = Job.model_validate(
        {
            "name": "digits",
            "project": "p",
            "regions": ["us-central1"],
            "container": {"image": "an-image", "command": ["sh", "-c"], "args": [script]},
            "pools": [{"machine": "a2-highgpu-1g"}, {"machine": "a2-highgpu-1g"}],
        }
    )
    directory = home.directory_for(run_id, None)
    record = {"id": run_id, "target": "vertex", "spec": job.to_dict(), "created": 1e9, "by": "x@y"}
    home.create(directory, record)
    request = build(job, run_id=run_id, run_dir=directory.url, token="secret", attempt=1)
    name = jobs.submit(request).name
    record_attempt(directory, jobs.endpoint, job=name)
    return name


def test_submit_find_list_cancel_and_delete(jobs: Jobs) -> None:
    name = launched(jobs, "first")
    other = launched(jobs, "second", "exit 0")
    assert [job.name for job in jobs.find("first", 1)] == [name]
    assert jobs.find("first", 2) == jobs.find("third") == []
    assert [job.name for job in jobs.find()] == [other, name]
    assert [job.name for job in jobs.list(limit=1)] == [other]
    assert jobs.wait(other, poll=0.05, limit=60.0).state == "SUCCEEDED"
    assert [job.name for job in jobs.list('state="JOB_STATE_SUCCEEDED"')] == [other]
    jobs.cancel(other)
    jobs.cancel(name)
    assert jobs.wait(name, poll=0.05, limit=60.0).state == "CANCELLED"
    for each in (name, other):
        jobs.delete(each)
        with pytest.raises(ApiError) as raised:
            jobs.get(each)
        assert raised.value.kind == "not_found"
    assert jobs.list() == []


def test_a_wrong_request_is_refused_in_the_apis_words(jobs: Jobs) -> None:
    with pytest.raises(ApiError, match=r"400 .*[dD]isplay") as raised:
        jobs.submit({"jobSpec": {}})
    assert not raised.value.transient
    with pytest.raises(ApiError, match="the request is not a CustomJob"):
        jobs.submit({"displayName": "x", "jobSpec": {"workerPools": []}})


def test_a_run_is_followed_while_it_is_cancelled_from_another_machine(jobs: Jobs) -> None:
    launched(jobs, "one")
    wait_for(lambda: jobs.find("one")[0].state, lambda state: state == "RUNNING")
    options = ["one", "--follow", "--replica", "workerpool1-0", "--json"]
    follower = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "logs", *options],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(
        lambda: CliRunner().invoke(app, ["logs", "one", "--replica", "workerpool1-0"]).stdout,
        lambda shown: shown.count("\n") > 20,
    )
    status = json.loads(CliRunner().invoke(app, ["status", "one", "--json"]).stdout)
    assert (status["attempts"][0]["state"], status["api"]["state"]) == ("PENDING", "RUNNING")
    cancelled = CliRunner().invoke(app, ["cancel", home.find("one").url])
    assert cancelled.stdout.endswith("in us-central1 has ended: CANCELLED\n"), cancelled.stderr
    followed, _ = follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 0
    lines = [json.loads(line) for line in followed.splitlines()]
    messages = [line["message"] for line in lines]
    assert messages == [f"line {number}" for number in range(len(messages))]
    assert len(messages) > 20
    assert {line["replica"] for line in lines} == {"workerpool1-0"}
    again = json.loads(CliRunner().invoke(app, ["status", "one", "--json"]).stdout)
    assert (again["state"], again["attempts"][0]["state"]) == ("cancelled", "CANCELLED")
