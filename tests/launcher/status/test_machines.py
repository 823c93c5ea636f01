"""What machines did last is read from what their leader has gathered, a fake NVML's errors too."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from launcher.status.machines import machine_errors, machines_in_words, newest_machines
from tests.trainer.telemetry.test_machine import Nvml
from trainer.coordinator.machines import Machines
from trainer.protocol import swell_pb2 as pb
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import MACHINES
from trainer.telemetry.machine import nvml

A, B = "workerpool0-0", "workerpool1-0"


def machine(library: Nvml, cpu: float) -> pb.Machine:
    """What an agent says of a machine whose GPUs a fake NVML has."""
    told = pb.Machine(cpu=cpu)
    for gpu in nvml(library)():
        told.gpus.add(used=gpu.used, memory=gpu.memory, temperature=gpu.temperature, xid=gpu.xid)
    return told


def written(run_dir: RunDirectory, term: int, *cpus: float, xids: tuple[int, ...] = ()) -> None:
    library = Nvml()
    library.xids = [(1, xid) for xid in xids]
    gathered = Machines(term, 0.0)
    for number, cpu in enumerate(cpus):
        gathered.take(A, machine(library, cpu), 100.0 + number)
    gathered.take(B, pb.Machine(cpu=0.5, memory=0.25), 100.0)
    file = gathered.gathered(300.0)
    assert file is not None
    run_dir.store.write(file.name, file.encode())


def test_the_newest_figures_of_each_machine(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    assert newest_machines(run_dir) == {} and machines_in_words({}) == ""
    written(run_dir, 9, 0.1)
    written(run_dir, 10, 0.2, 0.3)
    found = newest_machines(run_dir)
    assert (found[A]["time"], found[A]["cpu"], found[B]["memory"]) == (101.0, 0.3, 0.25)
    first, second = found[A]["gpus"]
    assert (first["used"], first["memory"], first["temperature"]) == (0.97, 0.25, 81.0)
    assert second["temperature"] == 0.0 and found[B]["gpus"] == []
    assert machines_in_words(found) == (f"processors 40% used, GPUs 97% (least: GPU 0 of {A}, 97%)")
    assert list(machine_errors(found)) == []


@pytest.mark.parametrize(
    ("xid", "said"),
    [(79, "GPU 1 reports Xid 79: it has fallen off the bus"), (7, "GPU 1 reports Xid 7")],
)
def test_a_critical_error_is_named(tmp_path: Path, xid: int, said: str) -> None:
    run_dir = RunDirectory(str(tmp_path))
    written(run_dir, 1, 0.1, xids=(48, xid))
    assert list(machine_errors(newest_machines(run_dir))) == [f"{A}: {said}"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no gzip",
        gzip.compress(b"{"),
        gzip.compress(b'[1]\n{"member": 3}\n{"member": "a", "cpu": []}\n'),
        gzip.compress(
            b'{"member": "a", "x": [""], "gpu0_xid": [null], "gpu999_xid": [1], "y": [1e999]}'
        ),
    ],
    ids=["empty", "no gzip", "half a line", "other lines", "other figures"],
)
def test_what_is_damaged_is_left_out(tmp_path: Path, data: bytes) -> None:
    run_dir = RunDirectory(str(tmp_path))
    run_dir.store.write(f"{MACHINES}/000001-000001.jsonl.gz", data)
    run_dir.store.write(f"{MACHINES}/zzz", b"")
    found = newest_machines(run_dir)
    assert found in ({}, {"a": {"gpus": []}})
    assert list(machine_errors(found)) == []
