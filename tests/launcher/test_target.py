"""What tells the targets apart: what they need of this machine, and what to expect of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from launcher.emulator.storage.objects import Objects
from launcher.emulator.vms import places
from launcher.job.job import Job
from launcher.job.problem import NO_VM
from launcher.local.emulator import LocalError
from launcher.target import Target, local, opened, problems, vertex

BASE = {"name": "j", "task": "package.module:Class", "pools": ["a2-highgpu-1g"]}


def job(**fields: object) -> Job:
    return Job.model_validate({**BASE, **fields})


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_without_podman_containers_are_refused_and_the_remedy_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "missing", lambda kind: "containers need podman: apt-get install x")
    ((path, id, said),) = problems(job(local={"vm": "container"}), "local")
    assert (path, id) == (("local", "vm"), NO_VM)
    assert said == "is container; containers need podman: apt-get install x, or write process"


def test_vertex_ai_needs_nothing_of_this_machine() -> None:
    elsewhere = {"project": "p", "regions": ["us-central1"], "output": "gs://bucket-b/runs"}
    asked = job(local={"vm": "container"}, container="an-image", **elsewhere)
    assert problems(asked, "vertex") == []
    program = (
        "import sys; from launcher.job.job import Job; from launcher.target import problems\n"
        f"problems(Job.model_validate({BASE!r}), 'vertex')\n"
        "print([name for name in sys.modules if name.startswith('launcher.emulator')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer.stderr


def test_vertex_ai_goes_on_without_this_process_and_is_waited_for() -> None:
    target = vertex(job(project="p"))
    assert target == Target(target.api)
    assert target.halt is None and target.patience is None
    assert target.api("us-east1") is target.api("us-east1")
    assert target.api("us-east1").endpoint == "https://us-east1-aiplatform.googleapis.com"


def test_this_machine_has_an_emulator_and_buckets_for_the_block(swell_home: Path) -> None:
    asked = job(regions=["us-east1"], checkpoint={"buckets": {"us-east1": "gs://east/checkpoints"}})
    with opened("local", asked, "one") as target:
        api = target.api("local")
        assert api.endpoint == target.secrets
        assert api.find() == []
        assert Objects(swell_home / "buckets").bucket("east").name == "east"
    with pytest.raises(OSError):
        urlopen(target.secrets)


def test_halting_stops_the_emulator_at_once() -> None:
    with local(job(), "one") as target:
        assert target.halt is not None
        target.halt()
        with pytest.raises(OSError):
            urlopen(target.secrets)


def test_an_emulator_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"PYTHONHOME": "/nowhere"}
    monkeypatch.setattr("launcher.local.emulator.child_environment", lambda: nowhere)
    with pytest.raises(LocalError, match="the emulator did not start"), local(job(), "one"):
        pass


def test_a_disk_or_a_token_that_keeps_the_emulator_from_starting_is_one_line_too(
    swell_home: Path,
) -> None:
    state = swell_home / "runs" / "one" / "local"
    state.mkdir(parents=True)
    (state / "emulator.log").mkdir()
    with pytest.raises(LocalError, match=r"did not start: .*Is a directory"), local(job(), "one"):
        pass
    (state / "emulator.log").rmdir()
    (state / "token").write_text("known to all")
    (state / "token").chmod(0o644)
    with pytest.raises(LocalError, match=r"did not start: .*remove it"), local(job(), "one"):
        pass
