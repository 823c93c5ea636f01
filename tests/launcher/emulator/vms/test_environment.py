"""What a replica finds in its environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.resources.customjobs import Package, Pool
from launcher.emulator.vms.cluster_spec import FORMS, cluster_spec, hostname
from launcher.emulator.vms.environment import (
    base_environment,
    container_environment,
    expand,
    image_environment,
)
from launcher.emulator.vms.interpreter import Interpreter


@pytest.mark.parametrize(
    "text, expanded",
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(A)$", "1$"),
        ("", ""),
        ("$(LOOP)", "$(LOOP)"),
    ],
)
def test_references(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "LOOP": "$(LOOP)"}) == expanded


@given(st.text(alphabet="$()AB x"))
def test_a_text_whose_dollars_are_doubled_is_taken_literally(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "1", "B": "2"}) == text


def test_variables_see_earlier_ones_and_cannot_override_those_of_the_service() -> None:
    environment = container_environment(
        {"PATH": "/bin", "SWELL_SLOTS": "1"},
        [
            ("LATE", "$(HOSTNAME)"),
            ("TWICE", "$(LATE)$(LATE)"),
            ("EARLY", "$(LAST)"),
            ("LAST", ""),
            ("SWELL_SLOTS", "4"),
            ("HOSTNAME", "mine"),
        ],
        {"HOSTNAME": "h"},
    )
    assert environment == {
        "PATH": "/bin",
        "SWELL_SLOTS": "4",
        "HOSTNAME": "h",
        "LATE": "h",
        "TWICE": "hh",
        "EARLY": "$(LAST)",
        "LAST": "",
    }


def test_a_vm_inherits_only_what_says_where_things_are(tmp_path: Path) -> None:
    host = {"HOME": "/home/me", "AWS_SECRET": "s", "PATH": "/mine", "PYTHONPATH": "/src"}
    environment = base_environment(Interpreter(tmp_path / "python"), 4, host)
    assert environment["PATH"].startswith(f"{tmp_path}/python/bin:")
    assert environment["HOME"] == "/home/me" and environment["PYTHONPATH"] == "/src"
    assert "AWS_SECRET" not in environment and "/mine" not in environment["PATH"]


def test_each_worker_has_its_share_of_the_cores_or_what_somebody_has_said(tmp_path: Path) -> None:
    interpreter = Interpreter(tmp_path / "python")
    shared = base_environment(interpreter, 10_000, {})
    assert shared["OMP_NUM_THREADS"] == "1"
    said = base_environment(interpreter, 10_000, {"OMP_NUM_THREADS": "3"})
    assert said["OMP_NUM_THREADS"] == "3"


def test_gcsfs_does_not_ask_for_what_only_grpc_serves(tmp_path: Path) -> None:
    """It would wait a minute for it, for each bucket: in VMs with an image, and in all others."""
    for environment in (
        image_environment(),
        base_environment(Interpreter(tmp_path / "python"), host={}),
    ):
        assert environment["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] == "false"


def pool(index: int, replicas: int, package: Package | None = None) -> Pool:
    return Pool(index, "a2-highgpu-1g", replicas, 1, "an-image", (), ("--epochs=1",), (), package)


def test_cluster_spec_has_the_documented_form() -> None:
    pools = [pool(0, 1), pool(2, 2)]
    spec = json.loads(cluster_spec("17", pools, "workerpool2-1"))
    assert spec == {
        "cluster": {
            "workerpool0": ["cmle-training-workerpool0-0000000011-0:2222"],
            "workerpool2": [
                "cmle-training-workerpool2-0000000011-0:2222",
                "cmle-training-workerpool2-0000000011-1:2222",
            ],
        },
        "environment": "cloud",
        "task": {"type": "workerpool2", "index": 1},
        "job": spec["job"],
        "open_ports": [3333],
    }
    assert isinstance(json.loads(spec["job"]), dict)
    assert hostname("17", "workerpool2-1") == "cmle-training-workerpool2-0000000011-1"


def test_cluster_spec_says_which_package_runs() -> None:
    package = Package(("gs://b/p.whl",), "trainer.task")
    spec = json.loads(cluster_spec("17", [pool(0, 1, package)], "workerpool0-0"))
    assert json.loads(spec["job"]) == {
        "python_module": "trainer.task",
        "package_uris": ["gs://b/p.whl"],
        "job_args": ["--epochs=1"],
    }


@pytest.mark.parametrize("form", FORMS)
def test_each_variant_of_cluster_spec_differs_in_one_thing(form: str) -> None:
    def spec(*forms: str) -> dict[str, Any]:
        written = cluster_spec("17", [pool(0, 1)], "workerpool0-0", frozenset(forms))
        read: dict[str, Any] = json.loads(written)
        return read

    documented = spec()
    expected = {
        "job-object": {**documented, "job": json.loads(documented["job"])},
        "no-open-ports": {key: it for key, it in documented.items() if key != "open_ports"},
        "trial": {**documented, "task": {**documented["task"], "trial": "1"}},
        "chief": {
            **documented,
            "cluster": {"chief": documented["cluster"]["workerpool0"]},
            "task": {"type": "chief", "index": 0},
        },
    }
    assert spec(form) == expected[form]


def test_only_a_job_of_one_replica_has_a_chief() -> None:
    forms = frozenset({"chief"})
    spec = json.loads(cluster_spec("17", [pool(0, 1), pool(1, 1)], "workerpool1-0", forms))
    assert spec["task"]["type"] == "workerpool1" and "chief" not in spec["cluster"]
