"""A script alone makes a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.job.barescript import is_bare_script, job_of_script
from launcher.job.jobfile import JobFileError, read_job
from launcher.target import load_script


def test_a_script_with_its_arguments_is_a_job(tmp_path: Path) -> None:
    script = tmp_path / "Train_GPT2.py"
    script.touch()
    job = load_script(str(script), ["--lr", "3e-4"])
    assert job.name == "train-gpt2"
    assert job.settings()["program"] == {"script": str(script), "args": ["--lr", "3e-4"]}
    assert [pool.machine for pool in job.pools] == ["a2-highgpu-1g"] * 2
    assert job.code is None


def test_pools_and_overrides_are_as_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    pools = ["a2-highgpu-8g", "3 x a2-highgpu-8g"]
    job = load_script(str(tmp_path / "a.py"), [], pools, ["torchrun.sizes=[16, 32]"])
    assert job.slots == 32 and job.torchrun and job.torchrun.sizes == [16, 32]


def test_on_vertex_ai_its_folder_is_sent_along(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    more = ["project=p", "regions=[us-central1]", "output=gs://bucket-b/r", "container=i/t"]
    job = load_script(str(tmp_path / "a.py"), [], [], more, "vertex")
    assert job.code and job.code.folder == str(tmp_path)
    assert job.settings()["program"]["script"] == "a.py"


@pytest.mark.parametrize(
    ("stem", "name"),
    [("train", "train"), ("7b", "run-7b"), ("ünï", "n"), ("_", "run"), ("a" * 50, "a" * 40)],
)
def test_it_has_a_name_that_runs_may_have(stem: str, name: str) -> None:
    assert job_of_script(f"{stem}.py", [], [], send=False)["name"] == name


def test_what_is_wrong_is_told_of_as_ever(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="there is no file"):
        load_script(str(tmp_path / "none.py"), [])
    (tmp_path / "a.py").touch()
    with pytest.raises(JobFileError, match="is not a machine"):
        load_script(str(tmp_path / "a.py"), [], ["3 x a2-hgpu-1g"])


def test_a_job_file_is_no_script() -> None:
    assert is_bare_script("a/train.py") and not is_bare_script("job.yaml")


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("from trainer import elastic", "script"),
        ("import horovod.torch as hvd", "script"),
        ("import torch.distributed", "torchrun"),
        ("", "torchrun"),
    ],
)
def test_what_torchrun_could_not_train_is_no_script_for_it(
    source: str, field: str, tmp_path: Path
) -> None:
    """It would start several programs, each of which trains by itself."""
    (tmp_path / "a.py").write_text(source)
    job = load_script(str(tmp_path / "a.py"), ["--lr", "1"])
    assert (job.torchrun is None) == (field == "script")
    assert job.settings()["program"] == {"script": str(tmp_path / "a.py"), "args": ["--lr", "1"]}


def test_it_is_no_job_file_and_it_is_said_what_writes_one(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import torch\n")
    with pytest.raises(JobFileError, match=r"train\.py: is a script.*; swell new job .*train\.py"):
        read_job(tmp_path / "train.py")
