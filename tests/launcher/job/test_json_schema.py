"""The JSON Schema that ``swell schema`` prints: it takes what is right, and refuses wrong types."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from launcher.cli import app
from launcher.job.job import Job
from launcher.job.json_schema import job_schema
from launcher.job.yamlfile import read_yaml
from tests.launcher.job.job_fields import Fields, jobs
from tests.launcher.job.limits_table import base_job

SCHEMA = job_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))


def complaints(tree: Any) -> list[str]:
    """What the schema finds wrong in a job file's tree."""
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(tree)]


FULL: dict[str, Any] = {
    "name": "full",
    "task": "m:C",
    "args": {"epochs": 3},
    "torchrun": {"module": "m", "args": ["x"], "nproc_per_node": 2, "sizes": [2, 4]},
    "container": {"image": "i", "command": ["swell-agent"], "args": ["x"]},
    "env": {"A": "1"},
    "pools": [
        {"machine": "a2-highgpu-1g"},
        {
            "machine": "a2-highgpu-1g",
            "replicas": 3,
            "slots": 2,
            "accelerators": {"type": "NVIDIA_TESLA_A100", "count": 1},
            "disk": {"type": "pd-ssd", "size": "200GiB"},
            "nfs": [{"server": "10.0.0.2", "path": "/d", "mount_point": "d"}],
            "reservation": {"affinity": "none"},
            "package": {"executor": "i", "uris": ["gs://bucket-b/p"], "module": "trainer.agent"},
        },
    ],
    "elastic": {"min_workers": 1, "hold_off": "1s", "replace_stragglers": 1.5, "preflight": True},
    "checkpoint": {"every": "10min", "keep": 2},
    "scheduling": {"strategy": "spot", "disable_retries": True},
    "controller": {"machine": "e2-standard-4", "image": "i", "timeout": "1d"},
    "timeout": "3d",
    "audit": False,
    "telemetry": {
        "tensorboard": True,
        "wandb": "digits",
        "mlflow": "http://h:5000",
        "traces": "http://h:4318",
        "port": 9400,
        "machines": True,
    },
    "on_nonfinite": "skip",
    "project": "my-project",
    "regions": ["us-central1"],
    "output": "gs://bucket-b/runs",
    "labels": {"team": "a"},
    "service_account": "a@p.iam.gserviceaccount.com",
    "psc_interface": {"attachment": "projects/p/regions/us-central1/networkAttachments/a"},
    "encryption_key": "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k",
    "experiment": {"name": "e", "run": "r"},
    "web_access": True,
    "dashboard_access": True,
    "local": {"market": [{"at": "5 steps", "preempt": "workerpool0-0", "notice": "5s"}]},
}


def test_it_is_a_schema_and_the_command_prints_it() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    answer = CliRunner().invoke(app, ["schema"])
    assert json.loads(answer.stdout) == SCHEMA


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_takes_every_example(path: Path) -> None:
    tree, _ = read_yaml(path.read_text(), str(path))
    assert complaints(tree) == []


def test_it_takes_the_documents_job() -> None:
    tree, _ = read_yaml(base_job(), "limits.md")
    assert complaints(tree) == []


@given(jobs())
def test_it_takes_every_job_that_is_right(fields: Fields) -> None:
    fields = {name: value for name, value in fields.items() if value is not None}
    Job.model_validate(fields)
    assert complaints(fields) == []


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value, but for those inside args, which may be anything."""
    if path:
        yield path
    if path == ("args",) or not isinstance(tree, dict | list):
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from places(value, (*path, key))


@pytest.mark.parametrize("path", list(places(FULL)), ids=lambda path: ".".join(map(str, path)))
def test_it_refuses_a_wrong_type_wherever_it_is(path: tuple[Any, ...]) -> None:
    assert complaints(FULL) == []
    wrong: Any
    for wrong in ([[]], 1.5, None, {"no": {}}):
        if isinstance(wrong, dict) and path == ("args",):
            continue
        tree = copy.deepcopy(FULL)
        at: Any = tree
        for key in path[:-1]:
            at = at[key]
        if isinstance(wrong, float) and isinstance(at[path[-1]], float):
            continue  # that is its type
        at[path[-1]] = wrong
        if wrong is not None or _is_needed(path):
            assert not VALIDATOR.is_valid(tree), f"{path} took {wrong}"


def _is_needed(path: tuple[Any, ...]) -> bool:
    return path in {("name",), ("pools",), ("pools", 1, "machine"), ("env", "A"), ("audit",)}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("timeout", "3600"),
        ("timeout", "3 weeks"),
        ("timeout", 3600),
        ("name", "Not a name"),
        ("pools", []),
        ("pools", ["a2-highgpu-1g"] * 5),
        ("pools", [{"machine": "n1-standard-4"}]),
        ("pools", [{"machine": "a2-highgpu-1g", "disk": "200GB"}]),
        ("pools", [{"machine": "a2-highgpu-1g", "replicas": 0}]),
        ("scheduling", "on_demand"),
        ("regions", ["moon"]),
        ("env", {"not-a-name": "x"}),
        ("network", "default"),
        ("machine", "a2-highgpu-1g"),
    ],
)
def test_it_refuses_a_wrong_form(field: str, wrong: object) -> None:
    assert not VALIDATOR.is_valid({**FULL, field: wrong})


@pytest.mark.parametrize(
    ("field", "right"),
    [
        ("timeout", "${LIMIT}"),
        ("audit", "${AUDIT:-true}"),
        ("pools", ["${N} x a2-highgpu-1g", {"machine": "${MACHINE}", "replicas": "${N}"}]),
        ("regions", "${REGION}"),
        ("regions", "us-central1"),
        ("experiment", "e"),
    ],
)
def test_a_variable_may_stand_for_a_value(field: str, right: object) -> None:
    assert complaints({**FULL, field: right}) == []
