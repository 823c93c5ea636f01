"""The runs of a project: an emulated one, in which somebody else has launched them."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launcher import home
from launcher.api.retry import Retries
from launcher.api.vertex import Jobs
from launcher.dashboard.place import Place
from launcher.emulator.state import whereabouts
from launcher.job.customjob import build
from launcher.job.job import Job
from tests.launcher.dashboard.browser import dashboard
from tests.launcher.emulator.running import PATIENCE, Emulator, wait_for
from tests.launcher.recorded_run import record_attempt
from tests.launcher.status.events import RIDE
from trainer.rundir import formats
from trainer.rundir.batches import Batch, encode
from trainer.rundir.directory import RunDirectory
from trainer.rundir.numbers import dumped
from trainer.rundir.retry import ONCE

pytest.importorskip("google.cloud.aiplatform_v1")

REGIONS = ("us-central1", "us-east1")


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    emulator = Emulator(tmp_path / "state", "--until-eof", "--open")
    where = whereabouts(emulator.state)
    assert where is not None
    made = httpx.post(f"{where.storage}/storage/v1/b?project=p", json={"name": "bucket"})
    assert made.status_code == 200
    monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", emulator.endpoint)
    monkeypatch.setenv("SWELL_VERTEX_TOKEN_FILE", str(emulator.state / "token"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", where.storage)
    yield emulator
    assert emulator.stop() == 0


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of whoever launches; the dashboard's own is beside it, and empty."""
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def launched(run_id: str, region: str = REGIONS[0], writes: bool = True) -> RunDirectory:
    """Submits a run, as a launch does."""
    job = Job.model_validate(
        {
            "name": "digits",
            "project": "p",
            "regions": [region],
            "output": "gs://bucket/runs",
            "container": {"image": "an-image", "command": ["sleep"], "args": ["1000000"]},
            "pools": [{"machine": "a2-highgpu-1g"}, {"machine": "a2-highgpu-1g", "replicas": 2}],
        }
    )
    directory = home.directory_for(run_id, "gs://bucket/runs")
    jobs = Jobs("p", region, retries=Retries(ONCE))
    request = build(job, run_id=run_id, run_dir=directory.url, token="secret", attempt=1)
    name = jobs.submit(request).name
    if writes:
        record = {"id": run_id, "target": "vertex", "created": 1e9, "by": "x@elsewhere"}
        home.create(directory, record | {"spec": job.to_dict(), **formats.RUN.stamp()})
        record_attempt(directory, jobs.endpoint, job=name, region=region)
        directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, RIDE)))
    return directory


def test_its_runs_are_found_read_and_cancelled_from_another_machine(
    emulator: Emulator, elsewhere: Path, tmp_path: Path
) -> None:
    launched("one")
    launched("unread", writes=False)
    Jobs("p", REGIONS[0]).submit(
        {
            "displayName": "no run of Swell's",
            "jobSpec": {
                "workerPoolSpecs": [
                    {
                        "machineSpec": {"machineType": "a2-highgpu-1g"},
                        "replicaCount": "1",
                        "containerSpec": {"imageUri": "i", "command": ["true"]},
                    }
                ]
            },
        }
    )
    options = ["--project", "p", *(it for region in REGIONS for it in ("--region", region))]
    with (
        dashboard(tmp_path / "own", *options) as (url, _),
        httpx.Client(base_url=url, timeout=PATIENCE) as web,
    ):

        def until(path: str, *texts: str) -> str:
            """The page at a path, once it says so."""

            def look() -> str:
                answer = web.get(path)
                assert answer.status_code == 200, answer.text
                return html.unescape(answer.text)

            return wait_for(look, lambda text: all(one in text for one in texts))

        text = until("", "1 run: 1 running", "projects/p/locations/us-east1")
        assert "unread: cannot be read" in text and "no run of Swell's" not in text
        launched("two", REGIONS[1])
        until("", "2 runs: 2 running")
        until("runs/two", "1 with notice, 1 without", "workerpool1-1 is lost (silent)")
        origin = {"Origin": url.rsplit("/", 2)[0]}
        assert web.post("runs/two/cancel", headers=origin).status_code == 303
        until("runs/two", "run two is cancelled", "in us-east1 has ended: CANCELLED")
        until("", "1 cancelled, 1 running")
    states = {job.labels["swell-run"]: job.state for job in Jobs("p", REGIONS[1]).find()}
    assert states == {"two": "CANCELLED"}
    assert not (tmp_path / "own" / "index").exists(), "it writes nothing down"


def test_a_region_that_does_not_answer_hides_no_other(emulator: Emulator, elsewhere: Path) -> None:
    launched("one")
    there = Jobs("p", REGIONS[0], retries=Retries(ONCE))
    away = Jobs("p", REGIONS[1], "http://127.0.0.1:9", retries=Retries(ONCE))
    told: list[str] = []
    assert Place(None, [away, there]).runs(told.append) == {"one": "gs://bucket/runs/one"}
    (line,) = told
    assert "http://127.0.0.1:9" in line and "[SW" in line


def test_what_was_known_of_a_region_stays_while_it_does_not_answer(
    emulator: Emulator, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched("one")
    place = Place(None, [jobs := Jobs("p", REGIONS[0], retries=Retries(ONCE))])
    told: list[str] = []
    known = place.runs(told.append)
    assert told == []
    refused = Jobs("p", REGIONS[0], "http://127.0.0.1:9", retries=Retries(ONCE))
    monkeypatch.setattr(jobs, "find", refused.find)
    assert place.runs(told.append) == known == {"one": "gs://bucket/runs/one"}
    assert len(told) == 1
