"""What containers on this machine ask of a job, and where their runs are kept."""

from __future__ import annotations

import pytest

from launcher.job.fitness import LOCAL_BUCKET, NO_BUCKET, misfits, output_of
from launcher.job.job import Job
from launcher.job.problem import DEPENDS, NO_EFFECT, NOT_SENT, RESERVED

BASE = {"name": "j", "task": "package.module:Class", "pools": ["a2-highgpu-1g"]}


def job(**fields: object) -> Job:
    return Job.model_validate({**BASE, "local": {"vm": "container"}, **fields})


def test_runs_of_containers_are_kept_in_a_bucket() -> None:
    assert misfits(job(), "local") == []
    assert output_of(job(), "local") == LOCAL_BUCKET
    assert output_of(job(output="gs://mine/runs"), "local") == "gs://mine/runs"
    assert output_of(job(), "vertex") is None
    assert output_of(Job.model_validate(BASE), "local") is None


@pytest.mark.parametrize(
    ("fields", "field", "kind", "what"),
    [
        ({"output": "/var/runs"}, ("output",), NO_BUCKET, "on this machine's disk"),
        (
            {"task": "tasks.py:Mine"},
            ("task",),
            NOT_SENT,
            "write code: FOLDER, which sends it along",
        ),
        (
            {"package": {"executor": "an-image", "uris": ["gs://bucket-b/p.tar.gz"]}},
            ("package",),
            "SW1119",
            "not installed in container VMs",
        ),
    ],
)
def test_what_containers_cannot_see_is_refused_with_the_remedy(
    fields: dict[str, object], field: tuple[str, ...], kind: str, what: str
) -> None:
    ((path, id, said),) = misfits(job(**fields), "local")
    assert (path, id) == (field, kind) and what in said


NETWORK = "projects/1/global/networks/n"
ATTACHMENT = {"attachment": "projects/p/regions/us-central1/networkAttachments/a"}
VERTEX = {
    **BASE,
    "project": "p",
    "regions": ["us-central1"],
    "fallback": [{"regions": ["us-east1"], "after": "1h"}],
    "output": "gs://bucket-b/runs",
    "container": "an-image",
}


def test_a_region_may_have_a_bucket_of_its_own() -> None:
    job = Job.model_validate({**VERTEX, "checkpoint": {"buckets": {"us-east1": "gs://east/r"}}})
    assert misfits(job, "vertex") == []


@pytest.mark.parametrize(
    ("region", "bucket", "kind", "said"),
    [
        ("us-east1", "/tmp/runs", NO_BUCKET, "is no bucket; write gs://BUCKET/FOLDER"),
        (
            "us-west1",
            "gs://west",
            NO_EFFECT,
            "is no region of the job's; add it to regions, or remove it",
        ),
    ],
)
def test_a_bucket_is_one_and_of_use(region: str, bucket: str, kind: str, said: str) -> None:
    job = Job.model_validate({**VERTEX, "checkpoint": {"buckets": {region: bucket}}})
    ((path, id, what),) = misfits(job, "vertex")
    assert (path, id) == (("checkpoint", "buckets", region), kind) and said in what


def test_memory_is_a_size_with_a_unit() -> None:
    found = job(local={"vm": "container", "memory": "8GiB"}).local.memory
    assert found is not None and found.bytes == 8 * 2**30
    with pytest.raises(ValueError, match="write 8GiB"):
        job(local={"vm": "container", "memory": 8})


def test_a_program_without_an_agent_may_be_called_as_in_vertex_ais_samples() -> None:
    package = {"executor": "an-image", "uris": ["gs://bucket-b/p.tar.gz"], "module": "trainer.task"}
    fields = {name: VERTEX[name] for name in VERTEX if name not in ("task", "container")}
    job = Job.model_validate({**fields, "package": package})
    assert misfits(job, "vertex") == []
    ((path, id, what),) = misfits(job, "local")
    assert (path, id) == (("package", "module"), RESERVED)
    assert what.startswith("is in trainer, which on this machine is Swell's own package; give")


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        ({"fleet": 2}, ("fleet",), "add psc_interface, with an attachment, or network"),
        (
            {"fleet": 2, "fallback": [{"machine": "a3-megagpu-8g"}]},
            ("fleet",),
            "add psc_interface, with an attachment",
        ),
        (
            {"fleet": 2, "network": NETWORK, "fallback": [{"machine": "a3-megagpu-8g"}]},
            ("network",),
            "does not go with a3-megagpu-8g",
        ),
    ],
)
def test_a_fleet_on_vertex_needs_a_network_that_its_machines_can_be_in(
    fields: dict[str, object], path: tuple[str, ...], said: str
) -> None:
    ((at, id, what),) = misfits(Job.model_validate({**VERTEX, **fields}), "vertex")
    assert (at, id) == (path, "SW1121") and said in what
    assert ("or network" in what) == ("or network" in said)


@pytest.mark.parametrize("fields", [{"network": NETWORK}, {"psc_interface": ATTACHMENT}])
def test_a_fleet_with_a_network_goes_to_vertex(fields: dict[str, object]) -> None:
    fleet = Job.model_validate({**VERTEX, "fleet": 2, "fallback": [], **fields})
    assert misfits(fleet, "vertex") == []
    alone = Job.model_validate({**VERTEX, "fallback": [{"machine": "a3-megagpu-8g"}]})
    assert misfits(alone, "vertex") == [], "one job needs none"


def test_jobs_that_are_isolated_have_vms_with_networks() -> None:
    isolated = {"market": {"isolated": True}}
    ((path, id, what),) = misfits(job(local={"vm": "process", **isolated}), "local")
    assert (path, id) == (("local", "market", "isolated"), DEPENDS) and "vm: netns" in what
    assert misfits(job(local={"vm": "netns", **isolated}), "local") == []
