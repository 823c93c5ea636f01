"""Buckets as folders, which local VMs do not have: said before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.job.fitness import misfits
from launcher.job.job import Job
from launcher.job.mounts import IN_SOURCE, NAMED, in_source, named
from launcher.target import load_job

BASE = {"name": "j", "task": "package.module:Class", "pools": ["a2-highgpu-1g"]}
COMMAND = {"image": "x", "command": ["python", "t.py"], "args": ["--data", "/gcs/b-1/d"]}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"args": {"data": "/gcs/b-1/train"}}, ("args", "data")),
        ({"args": {"of": [{"folder": "/gcs/b-1"}]}}, ("args", "of", 0, "folder")),
        ({"task": None, "module": "m", "args": ["--data=/gcs/b-1/x"]}, ("args", 0)),
        ({"env": {"DATA": "/gcs/b-1:/gcs/b-1/y"}}, ("env", "DATA")),
        ({"checkpoint": {"start_from": "/gcs/b-1/x.pt#weights"}}, ("checkpoint", "start_from")),
        ({"task": None, "container": COMMAND}, ("container", "args", 1)),
        ({"output": "/gcs/b-1/runs"}, ("output",)),
    ],
)
def test_a_value_that_names_a_buckets_folder_is_refused_here_and_goes_to_vertex(
    fields: dict[str, object], path: tuple[str | int, ...]
) -> None:
    job = Job.model_validate({**BASE, **fields})
    said = (
        "names /gcs/b-1, which Vertex AI mounts and local VMs do not have; "
        "write gs://b-1, which fsspec opens on both, or make or mount /gcs/b-1 here"
    )
    assert [it for it in misfits(job, "local") if it[1] == NAMED] == [(path, NAMED, said)]
    assert not [it for it in misfits(job, "vertex") if it[1] == NAMED]


@pytest.mark.parametrize(
    "text", ["/data/gcs/b-1", "$HOME/gcs/b-1", "gs://gcs/b-1", "./gcs/b-1", "/gcs/", "/gcsfuse/b"]
)
def test_what_only_looks_like_it_is_none(text: str) -> None:
    assert list(named(Job.model_validate({**BASE, "args": {"data": text}}))) == []


def test_a_folder_that_is_there_is_in_reach_of_vms_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "b-1").mkdir()
    job = {**BASE, "args": {"data": "/gcs/b-1", "other": "/gcs/b-2"}}
    for vm in ("process", "netns"):
        ((path, _, _),) = named(Job.model_validate({**job, "local": {"vm": vm}}), tmp_path)
        assert path == ("args", "other")
    found = list(named(Job.model_validate({**job, "local": {"vm": "container"}}), tmp_path))
    assert [path for path, *_ in found] == [("args", "data"), ("args", "other")]
    assert not any("here" in what for *_, what in found), "a folder here is of no use to them"


@pytest.mark.parametrize(
    "source",
    [
        'path = url.replace("gs://", "/gcs/")',
        'import os\nos.makedirs(f"/gcs/{bucket}/x")',
        'ROOT = "/gcs"',
    ],
)
def test_a_source_that_names_the_folder_is_warned_of_with_its_line(
    source: str, tmp_path: Path
) -> None:
    job = Job.model_validate(BASE)
    ((path, id, what),) = in_source(job, "script", "t.py", source.encode(), tmp_path / "none")
    assert (path, id) == (("script",), IN_SOURCE)
    assert what.startswith(f"t.py:{source.count(chr(10)) + 1}: names /gcs")
    assert list(in_source(job, "script", "t.py", source.encode(), tmp_path)) == []


def test_a_source_that_only_speaks_of_it_is_none() -> None:
    source = b'# /gcs/bucket\n"""Reads from /gcs/bucket."""\nx = "a /gcs/ b"\nnot python'
    job = Job.model_validate(BASE)
    assert list(in_source(job, "script", "t.py", source)) == []
    assert list(in_source(job, "script", "t.py", source.rpartition(b"\n")[0])) == []


@pytest.mark.skipif(Path("/gcs").is_dir(), reason="this machine has /gcs")
def test_the_sources_that_are_sent_are_looked_at_and_no_others(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "deep").mkdir(parents=True)
    (code / "train.py").write_text("print()\n")
    (code / "deep/data.py").write_text('A = 1\nROOT = "/gcs/b/"\nMORE = "/gcs/b"\n')
    (code / "left.py").write_text('ROOT = "/gcs/b"\n')
    (code / ".swellignore").write_text("left.py\n")
    file = tmp_path / "job.yaml"
    file.write_text("name: j\nscript: code/train.py\ncode: code\npools: [a2-highgpu-1g]\n")
    told: list[str] = []
    load_job(file, target="local", warn=told.append)
    assert told == [
        f"{file}:3: code: deep/data.py:2 and 1 more: names /gcs, where Vertex AI mounts buckets "
        "and local VMs have nothing; open gs://BUCKET with fsspec on both [SW1193]"
    ]
    load_job(file, target="any", warn=told.append)
    assert len(told) == 1
