"""``torchrun:`` in a job file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from launcher.job.job import Job
from launcher.job.model import problems_in
from launcher.target import load_job
from trainer.agent.settings import Settings
from trainer.protocol.session import TorchrunSettings
from trainer.worker.event_files import TENSORBOARD

POOLS: list[Any] = ["a2-highgpu-2g", "3 x a2-highgpu-2g"]


def job(torchrun: Any, **more: Any) -> Job:
    return Job.model_validate({"name": "j", "torchrun": torchrun, "pools": POOLS, **more})


def test_the_script_alone_is_enough(tmp_path: Path) -> None:
    text = "name: j\ntorchrun: train.py\npools: [a2-highgpu-2g]\n"
    (tmp_path / "job.yaml").write_text(text)
    found = load_job(tmp_path / "job.yaml")
    assert found.settings()["program"] == {"script": str(tmp_path / "train.py"), "args": []}
    assert found.settings()["torchrun"] == asdict(TorchrunSettings())
    assert found.files() == [("torchrun", str(tmp_path / "train.py"))]


def test_all_of_it_reaches_the_trainer() -> None:
    found = job(
        {"module": "m", "args": ["--x"], "sizes": [4, 8], "max_restarts": 9, "grace": "5s"},
        elastic={"min_workers": 3},
    )
    settings = Settings.of_run({"settings": found.settings()})
    assert (settings.program.module, settings.program.args) == ("m", ["--x"])
    limits = settings.limits()
    assert (limits.sizes, limits.min_workers, limits.max_workers) == ((4, 8), 4, 8)
    assert (limits.max_restarts, limits.grace) == (9, 5.0)


def test_progress_may_be_that_of_tensorboard() -> None:
    found = job({"module": "m", "progress": "tensorboard"})
    torchrun = Settings.of_run({"settings": found.settings()}).torchrun
    assert torchrun is not None and torchrun.progress == TENSORBOARD


def test_by_default_there_is_no_world_but_the_full_one() -> None:
    limits = Settings.of_run({"settings": job("/a.py").settings()}).limits()
    assert (limits.sizes, limits.min_workers, limits.max_workers) == ((8,), 8, 8)
    with_spares = job("/a.py", elastic={"max_workers": 6})
    limits = Settings.of_run({"settings": with_spares.settings()}).limits()
    assert (limits.sizes, limits.min_workers) == ((6,), 6), "two more stand by"


def test_the_bounds_in_elastic_hold_for_the_sizes_as_well() -> None:
    found = job({"module": "m", "sizes": [2, 4, 8]}, elastic={"min_workers": 3, "max_workers": 6})
    assert Settings.of_run({"settings": found.settings()}).limits().sizes == (4,)


def test_nproc_per_node_is_for_pools_that_say_nothing() -> None:
    pools = ["a2-highgpu-2g", {"machine": "a2-highgpu-2g", "slots": 1}]
    found = job({"module": "m", "nproc_per_node": 4}, pools=pools)
    assert [pool.slots for pool in found.pools] == [4, 1]
    assert found.slots == 5
    assert Job.model_validate(found.to_dict()) == found
    for auto in ("auto", "gpu"):
        assert job({"module": "m", "nproc_per_node": auto}).slots == 8


def test_a_wrong_pool_beside_nproc_per_node_is_told_of_as_ever() -> None:
    with pytest.raises(ValidationError) as caught:
        job({"module": "m", "nproc_per_node": 4}, pools=["a2-highgpu-2g", {"replicas": 3}, 7])
    assert [loc for loc, _, _ in problems_in(caught.value)] == [
        ("pools", 1, "machine"),
        ("pools", 2),
    ]


def test_other_programs_leave_the_trainers_settings_as_they_were() -> None:
    found = Job.model_validate({"name": "j", "module": "m", "pools": POOLS})
    assert "torchrun" not in found.settings(), "an older image would refuse it"
