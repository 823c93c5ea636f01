"""``swell doctor --probe`` against the emulator finds out how that was set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.state import whereabouts
from launcher.emulator.vms import netns
from launcher.emulator.vms.cluster_spec import FORMS
from tests.integration.command import Swell, until
from tests.launcher.emulator.running import Emulator

pytest.importorskip("google.cloud.aiplatform_v1")
NETNS = pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing()))
JOB = {
    "name": "digits",
    "task": "trainer.tasks.digits:Digits",
    "pools": ["a2-highgpu-1g"],
    "fleet": 2,
}


def probed(swell: Swell) -> dict[str, Any]:
    """The one record that there is."""
    (file,) = (swell.home / "probes").iterdir()
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def write(swell: Swell, **more: Any) -> str:
    path = swell.folder / "job.yaml"
    path.write_text(json.dumps({**JOB, **more}))
    return str(path)


@pytest.mark.soak
def test_what_is_found_here_is_kept_and_nothing_else_is_left(swell: Swell) -> None:
    answer = swell("doctor", write(swell), "--probe", "--json")
    assert answer.returncode == 0, answer.stderr
    assert [it["verdict"] for it in json.loads(answer.stdout)] == ["pass"] * 4
    record = probed(swell)
    assert (record["endpoint"], record["reached"], record["spec_forms"]) == ("local", True, [])
    assert (record["spec_read"], record["metadata"], record["notice"]) == (True, True, True)
    assert record["bandwidth"] > 1e6 and 0 < record["latency"] < 60
    assert [len(report["peers"]) for report in record["reports"]] == [1, 1]
    assert not list((swell.home / "runs").iterdir())
    until(swell.nothing_is_left)


@NETNS
def test_jobs_that_do_not_reach_each_other_are_found_out_and_later_launches_are_warned(
    swell: Swell,
) -> None:
    job = write(swell, local={"vm": "netns", "market": {"isolated": True}})
    answer = swell("doctor", job, "--probe", "--json")
    assert answer.returncode == 1, answer.stderr
    first = json.loads(answer.stdout)[0]
    assert (first["verdict"], first["id"]) == ("fail", "SW6110")
    record = probed(swell)
    assert record["reached"] is False and record["spec_read"] is True
    warned = swell("launch", job, "--set", "pools=[a2-highgpu-1g]", "--set", "task=no.such:Task")
    assert "did not reach each other" in warned.stderr and "[SW1034]" in warned.stderr
    until(swell.nothing_is_left)


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Emulator]:
    """An emulator that is unlike what is documented, in all ways that it can be."""
    options = [f"--cluster-spec-form={form}" for form in FORMS]
    state = tmp_path / "strange"
    emulator = Emulator(state, "--until-eof", "--without-preempted", *options)
    yield emulator
    assert emulator.stop() == 0


def test_all_ways_in_which_the_api_differs_from_what_is_documented_are_found_out(
    swell: Swell, strange: Emulator
) -> None:
    where = whereabouts(strange.state)
    assert where is not None
    bucket = strange.http.post(f"{where.storage}/storage/v1/b?project=p", json={"name": "a-bucket"})
    assert bucket.status_code == 200, bucket.text
    job = write(
        swell,
        project="p",
        regions=["us-central1"],
        output="gs://a-bucket/runs",
        container={"image": "an-image"},
        network="projects/1/global/networks/n",
        code=None,
    )
    own = {
        "SWELL_VERTEX_ENDPOINT": strange.endpoint,
        "SWELL_VERTEX_TOKEN_FILE": str(strange.state / "token"),
        "STORAGE_EMULATOR_HOST": where.storage,
    }
    command = ["doctor", job, "--probe", "--yes", "--target", "vertex", "--json"]
    answer = subprocess.run(
        [sys.executable, "-m", "launcher.cli", *command],
        env={**os.environ, **swell.environment(), **own},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    record = probed(swell)
    assert record["endpoint"] == strange.endpoint and record["reached"] is True
    assert record["spec_read"] is True and sorted(record["spec_forms"]) == [
        "job is an object",
        "open_ports is missing",
        "task has a trial",
        "the primary is called chief",
    ]
    assert (record["metadata"], record["notice"]) == (True, False)
    listed = strange.http.get("/v1/projects/p/locations/us-central1/customJobs").json()
    states = [it["state"] for it in listed["customJobs"]]
    assert states == ["JOB_STATE_SUCCEEDED"] * 2
    left = strange.http.get(f"{where.storage}/storage/v1/b/a-bucket/o").json()
    assert left.get("items", []) == [], "the reports are in the record"
