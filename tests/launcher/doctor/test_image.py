"""``swell image check``: what is said of an image, from what the engine and the image say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher.doctor import image
from launcher.doctor.image import ImageError, check_image, judge

HEALTH = {
    "swell": "1.2.3",
    "python": "3.11.2",
    "torch": "2.13.0",
    "horovod": "0.28.1",
    "cuda": None,
    "nccl": False,
    "gpus": 0,
    "uid": 1000,
}
CONFIG = {
    "Entrypoint": ["tini", "--", "swell-agent"],
    "Cmd": ["train.py"],
    "User": "1000:1000",
}


def problems(
    config: dict[str, Any], stdout: str = "", code: int = 0, stderr: str = ""
) -> list[str]:
    said = subprocess.CompletedProcess([], code, stdout or json.dumps(HEALTH), stderr)
    found = judge({"Config": config, "Size": 1_360_000_000}, said, "1.2.3")
    assert all(bool(one.id) is not one.ok for one in found), "what is not right has an id"
    return [f"{one.what}: {one.detail}" for one in found if not one.ok]


def test_a_good_image_has_no_problem_and_its_size_and_program_are_shown() -> None:
    said = subprocess.CompletedProcess([], 0, "noise\n" + json.dumps(HEALTH), "")
    found = {
        one.what: one.detail for one in judge({"Config": CONFIG, "Size": 1.36e9}, said, "1.2.3")
    }
    assert problems(CONFIG) == []
    assert found["size"] == "1.36 GB on disk" and found["program"] == "train.py"
    assert "hvd.init and an allreduce work: Python 3.11.2" in found["training"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"Entrypoint": ["python"]}, "entry point: python does not start swell-agent"),
        ({"Entrypoint": None}, "entry point: none does not start swell-agent"),
        ({"User": ""}, "user: root; end the Dockerfile with USER 10001:10001"),
        ({"User": "0:0"}, "user: 0:0; end the Dockerfile with USER 10001:10001"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(change: dict[str, Any], problem: str) -> None:
    (found,) = problems({**CONFIG, **change})
    assert found.startswith(problem)


def test_an_image_of_another_version_or_one_that_cannot_train_is_no_replica() -> None:
    other = json.dumps({**HEALTH, "swell": "0.9"})
    assert problems(CONFIG, other) == [
        "Swell: 0.9; this launcher is 1.2.3, build the image from the same"
    ]
    assert problems(CONFIG, "x", 1, "a\nno torch\n") == ["training: no torch"]
    assert problems(CONFIG, "x", 127) == ["training: exit code 127"]
    for said in ("[]", "null", "{", "\n", '"x"'):  # hostile images say anything
        assert len(problems(CONFIG, said, 0, "odd")) == 1


def test_without_an_engine_or_the_image_it_is_said_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="needs podman or docker: apt-get install podman"):
        check_image("mine")
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\nexit 1\n")
    engine.chmod(0o755)
    with pytest.raises(ImageError, match=r"no image mine on this machine.*docker pull mine"):
        check_image("mine")
    engine.write_text("#!/bin/sh\necho nonsense\n")
    with pytest.raises(ImageError, match="nothing that can be read"):
        check_image("mine")
    engine.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(image, "LIMIT", 0.2)
    with pytest.raises(ImageError, match="did not end within"):
        check_image("mine")
