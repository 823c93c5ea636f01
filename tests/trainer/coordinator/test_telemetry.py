"""A leader tells others of the run, and keeps what its machines do."""

from __future__ import annotations

import asyncio
import gzip
import json
from functools import partial
from pathlib import Path

import pytest

from tests.trainer.coordinator.leader import A, B, leading, world_of_two
from tests.trainer.telemetry.test_board import read
from trainer.coordinator import coordinator as coordinators
from trainer.coordinator import gathering
from trainer.protocol import swell_pb2 as pb
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events
from trainer.rundir.names import MACHINES
from trainer.telemetry.board import EVENTS, LOGS
from trainer.telemetry.herald import Herald


def prepare(path: Path) -> RunDirectory:
    """A run directory of a run that has come to three steps."""
    run_dir = RunDirectory(str(path))
    run_dir.write_json("run.json", {"id": "r", "spec": {}, "settings": {}, "format": 2})
    events = EventWriter(run_dir, "agent")
    events.emit("steps", generation=1, first=1, count=3, metrics={"loss": [3.0, 2.0, 1.0]})
    events.flush()
    return run_dir


def test_what_machines_say_is_written_when_the_leader_ends(tmp_path: Path) -> None:
    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            for agent in (a, b, a):
                await agent.send(machine=pb.Machine(cpu=0.5, gpus=[pb.Gpu(xid=79)]))
            machines = leader.coordinator._gathering._machines
            while sum(len(one.times) for one in machines._series.values()) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(body())
    (file,) = (tmp_path / MACHINES).iterdir()
    told = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert [(one["member"], one["cpu"]) for one in told] == [
        (A.replica, [0.5, 0.5]),
        (B.replica, [0.5]),
    ]
    assert told[0]["gpu0_xid"] == [79, 79]
    events = read_events(RunDirectory(str(tmp_path)))
    errors = [(it["member"], it["reason"]) for it in events if it["event"] == "gpu_error"]
    what = "GPU 0 reports Xid 79: it has fallen off the bus"
    assert sorted(errors) == [(A.replica, what), (B.replica, what)], "each is told of once"


def test_they_are_written_while_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "LOOK", 0.01)
    monkeypatch.setattr("trainer.coordinator.machines.GATHERED", 0.05)

    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, _, _):
            while len(leader.run_dir.store.names(MACHINES)) < 2:
                await a.send(machine=pb.Machine(cpu=0.5))
                await asyncio.sleep(0.01)
            assert leader.run_dir.store.names(MACHINES)[:2] == [
                "000001-000001.jsonl.gz",
                "000001-000002.jsonl.gz",
            ]

    asyncio.run(body())


def test_when_the_run_ends_all_of_it_is_told(tmp_path: Path) -> None:
    prepare(tmp_path)

    async def body() -> None:
        async with leading(tmp_path) as leader, world_of_two(leader) as (a, b, _):
            await a.send(done=pb.Done(generation=1, step=3))
            assert (await b.until("finish")).state == "succeeded"

    asyncio.run(body())
    assert read(tmp_path / LOGS)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert "finished" in read(tmp_path / EVENTS)


def test_while_it_goes_on_a_leader_that_resigns_leaves_the_rest_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)

    async def body() -> None:
        async with leading(tmp_path) as leader:
            await leader.coordinator.stop(resign=True)
        monkeypatch.setattr(coordinators, "Herald", partial(Herald, every=0.01))
        async with leading(tmp_path, term=2) as leader:
            while not leader.run_dir.store.names("told"):
                await asyncio.sleep(0.01)

    asyncio.run(body())
    assert [
        name[20:26] for name in RunDirectory(str(tmp_path)).store.names(LOGS) if "tf" in name
    ] == ["000002"]
    assert read(tmp_path / LOGS)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
