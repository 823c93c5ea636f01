"""What is found in a run directory."""

from __future__ import annotations

import gzip
import io
import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save

from launcher.job.job import Job
from launcher.status.attended import attended_by, in_words, unattended_since
from launcher.status.samples import account, read_audit
from launcher.status.status import read_status
from launcher.supervision.attendance import Attendance, Attendant, Relieved, read_attendants
from launcher.supervision.controllers import (
    ControllerRecord,
    Situation,
    decide,
    read_controllers,
    usd_of,
)
from launcher.supervision.wanted import fleet_of, ways_of
from launcher.trust import Trust
from launcher.views.live import Scene, render
from launcher.views.summary import print_summary
from tests.fuzz.events import EVENTS
from tests.fuzz.inputs import anything, as_json, changed, damaged, json_of
from tests.fuzz.target import target
from trainer.agent.settings import Settings
from trainer.checkpoints.manifest import Manifest, read_manifest, sha256_of
from trainer.checkpoints.shardfile import ShardFile
from trainer.checkpoints.shards import Assembly, Slot
from trainer.checkpoints.tree import unflatten
from trainer.coordinator.profiles import Profiles
from trainer.protocol.lease import newest_claim
from trainer.protocol.session import CodeSettings, Program
from trainer.protocol.world import MemberId, arrange
from trainer.rundir import bundle, formats
from trainer.rundir.compaction import Compaction
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.profiles import Wish, find_wish
from trainer.rundir.untrusted import DEPTH, parse_json
from trainer.rundir.wanted import Wanted, newest_wanted

A = MemberId("workerpool0-0", "a")
JOB = Job.model_validate({"name": "j", "task": "m:T", "fleet": 2, "pools": ["a2-highgpu-1g"]})


def directory(**files: bytes) -> RunDirectory:
    """A run directory in memory with these files; ``__`` stands for ``/``."""
    run_dir = RunDirectory("memory://fuzz")
    run_dir.store.fs.store.clear()
    for name, data in files.items():
        run_dir.store.write(name.replace("__", "/").replace("DOT", "."), data)
    return run_dir


WORLD = arrange(1, [(MemberId("workerpool0-0", "a"), 2), (MemberId("workerpool1-0", "b"), 2)])
WISH = Wish(1, first=100, last=110, ranks=(0, 3), memory=True, by="me", at=9.0)


@target(json_of(WISH.to_json()))
def which_steps_are_profiled(data: bytes) -> None:
    with suppress(ValueError):
        found = find_wish(directory(profiles__000001DOTjson=data), 1)
        assert found is not None and 0 < found.first <= found.last
        assert Wish.from_json(1, found.to_json()) == found
        profiles = Profiles()
        profiles.take(found)
        assert len(list(profiles.due(WORLD, 0))) <= WORLD.size


WANTED = Wanted(
    jobs=2, region="us-east4", renew=(1,), dear=(2,), leave=(1,), max_workers=8, by="me", at=9.0
)


@target(st.tuples(json_of(WANTED.to_json()), st.sampled_from([1, 2, 3])))
def what_is_wanted(given: tuple[bytes, int]) -> None:
    data, version = given
    whole = as_json({**WANTED.to_json(), "version": 1})
    files = {f"wanted__{number:06d}DOTjson": whole for number in (1, 2)}
    run_dir = directory(**{**files, f"wanted__{version:06d}DOTjson": data})
    found = newest_wanted(run_dir)
    if found is not None:
        assert 1 <= found.version <= 3
        assert Wanted.from_json(found.version, found.to_json()) == found
        with suppress(ValueError):
            ways = ways_of(JOB, "local", None, found)
            assert fleet_of(JOB, ways, found).jobs <= 64


ATTENDANT = Attendant("me@here", 2, 1.0, 2.0, 20.0, 3)
CONTROLLER = ControllerRecord(
    1, "us-east4", "https://v", "e2-standard-4", "jobs/1", usd_per_hour=0.1
)


@target(
    st.tuples(
        json_of(ATTENDANT.to_json()),
        json_of(CONTROLLER.to_json()),
        st.sampled_from(["000001.json", "1.json", "9" * 30 + ".json", "٣.json", "x.json"]),
    )
)
def who_looks_after_a_run(given: tuple[bytes, bytes, str]) -> None:
    attendant, controller, file = given
    run_dir = directory()
    run_dir.store.write(f"attendants/{file}", attendant)
    run_dir.store.write(f"controllers/{file}", controller)
    found = read_attendants(run_dir)
    assert all(number >= 0 for number in found)
    in_words(attended_by(found, 10.0))
    unattended_since(found, 1e6)
    attendance = Attendance(run_dir, Attendant("me", 1, every=1.0), lambda: 0.0, lambda: 0.0)
    attendance.look()
    with suppress(Relieved):
        attendance.may_act()
    with suppress(ValueError):
        controllers = read_controllers(run_dir)
        usd_of(controllers, 10.0)
        for _ in decide(Situation(tuple(controllers)), 10.0):
            pass


@target(json_of(json.loads(Trust("key", "https://h", {"e2-standard-4": {"on_demand": 1.0}}).text)))
def what_a_controller_is_entrusted_with(data: bytes) -> None:
    with suppress(ValueError):
        trust = Trust.parse(data.decode("latin-1"))
        assert trust.run_key and Trust.parse(trust.text) == trust


CLAIM = {"term": 7, "member": str(A), "target": "10.0.0.1:5", "generation": 3, "counter": 9}


@target(
    st.tuples(
        json_of(CLAIM),
        st.sampled_from(["000007.json", "7.json", "9" * 200 + ".json", "٣.json", "x", "-1.json"]),
    )
)
def claims(given: tuple[bytes, str]) -> None:
    data, file = given
    run_dir = directory()
    run_dir.store.write(f"leader/{file}", data)
    claim = newest_claim(run_dir)
    if claim is not None:
        assert isinstance(claim.target, str) and len(claim.target) < 300
        assert claim.leader is None or isinstance(claim.leader, MemberId)
        assert 0 <= claim.generation < 2**31, "what is formed next must fit into a message"


ATTEMPT = {"attempt": 1, "region": "local", "endpoint": "http://x", "job": "j", "state": "RUNNING"}
OUTCOME = {"state": "succeeded", "reason": "", "term": 1, "metrics": {"loss": 0.1}, "time": 3.0}
CODE_SETTINGS = CodeSettings(64 * "a", 17, "requirements.txt")
SETTINGS = asdict(Settings(Program(task="a:B"), code=CODE_SETTINGS))
RUN = {
    "id": "run-1",
    "target": "vertex",
    "settings": SETTINGS,
    "authority_sha256": "x",
    "created": 1.0,
}
RUN |= formats.RUN.stamp()
HEAD = formats.EVENTS.stamp()  # the first line of a batch


@target(st.lists(json_of(HEAD, *EVENTS), max_size=8))
def events(lines: list[bytes]) -> None:
    """What reads events, and what is shown of them."""
    run_dir = directory(events__a__000000DOTjsonl=b"\n".join(lines), runDOTjson=as_json(RUN))
    json.dumps(read_status(run_dir), allow_nan=False)
    scene = Scene("run-1", ["workerpool0-0"], 0.0)
    for _, line in scene.add(read_events(run_dir)):
        assert line.isprintable()
    Console(file=io.StringIO(), width=80).print(render(scene, 10.0, 80))


SEGMENT = {"file": "000000001-ab.jsonl", "events": 1, "bytes": 9, "since": 0.0, "until": 1.0}
PUT_TOGETHER = formats.SEGMENTS.stamp()
INDEX_FILE = {**PUT_TOGETHER, "segments": [SEGMENT], "covers": {"a": 1}}


@target(
    st.tuples(
        json_of(INDEX_FILE),
        st.lists(json_of(PUT_TOGETHER, {"batch": ["a", 0]}, *EVENTS), max_size=8),
        st.lists(json_of({**PUT_TOGETHER, "batches": {"a": [0, 1]}}, *EVENTS), max_size=8),
    )
)
def events_put_together(given: tuple[bytes, list[bytes], list[bytes]]) -> None:
    """What reads segments and gists, by an index; what compacts further."""
    index, segment, gist = given
    run_dir = directory(
        events__index__000000001DOTjson=index,
        runDOTjson=as_json(RUN),
        **{
            "events__segments__000000001-abDOTjsonl": b"\n".join(segment),
            "events__gists__000000001-abDOTjsonl": b"\n".join(gist),
            "events__a__000001DOTjsonl": as_json(EVENTS[0]),
        },
    )
    for use in (
        lambda: read_events(run_dir),
        lambda: json.dumps(read_status(run_dir), allow_nan=False),
        Compaction(run_dir, due=1).round,
    ):
        with suppress(ValueError, FileNotFoundError):
            use()


@target(st.tuples(json_of(OUTCOME), json_of(ATTEMPT)))
def outcomes_and_attempts(given: tuple[bytes, bytes]) -> None:
    outcome, attempt = given
    run_dir = directory(
        outcomeDOTjson=outcome, attempts__0001DOTjson=attempt, runDOTjson=as_json(RUN)
    )
    try:
        status = read_status(run_dir)
    except ValueError:
        return
    printed = io.StringIO()
    print_summary(Console(file=printed, width=80), status, "gs://b/r", 3.0)
    assert "\x1b" not in printed.getvalue(), "nobody writes to a terminal from a run directory"


@target(json_of(RUN))
def what_a_run_was_launched_as(data: bytes) -> None:
    try:
        run = directory(runDOTjson=data).run()
        settings = Settings.of_run(run)
        settings.limits()
    except ValueError:
        return


@target(
    st.lists(
        json_of(
            {"generation": 1, "step": 1, "epoch": 0, "rank": 0, "ids": [1, 2], "dataset_size": 4}
        ),
        max_size=4,
    )
)
def audits(lines: list[bytes]) -> None:
    run_dir = directory(audit__aDOTjsonl=b"\n".join(lines))
    account(read_audit(run_dir), [(1, 1, 3)], True)


SLOT = Slot("model.weight", torch.float32, (2, 2))
SHARD = save({"model.weight[0:4]": torch.zeros(4)})
SKELETON = {
    "model": {"weight": {"__tensor__": 0}},
    "t": {"__tuple__": [1]},
    "p": {"__pairs__": [[1, 2]]},
}
MANIFEST = Manifest(
    4, "1-1-1", SKELETON, [SLOT], [ShardFile("a.safetensors", len(SHARD), "x")], {"metrics": {}}
)
RECEIPT = {"shards": [vars(MANIFEST.shards[0])], "layout": "x", "skeleton": SKELETON, "about": {}}


def _with_sum(value: Any) -> bytes:
    """A manifest whose checksum is right, whatever else it says."""
    if isinstance(value, dict):
        told = {key: one for key, one in value.items() if key not in ("owner", "sha256")}
        value["sha256"] = sha256_of(told)
    return as_json(value)


@target(json_of(MANIFEST.to_json()) | changed(MANIFEST.to_json()).map(_with_sum))
def manifests(data: bytes) -> None:
    run_dir = directory(**{"checkpoints__step-000000004__manifestDOTjson": data})
    try:
        manifest = read_manifest(run_dir, 4)
        assembly = Assembly(manifest.slots, torch.device("cpu"))
        assembly.add(SHARD)
        unflatten(manifest.skeleton, assembly.finish())
    except ValueError:
        return


@target(json_of(RECEIPT))
def receipts(data: bytes) -> None:
    run_dir = directory(receiptDOTjson=data)
    try:
        receipt = run_dir.read_json("receipt.json")
        for one in receipt.get("shards", []):
            ShardFile.from_json(one)
    except (ValueError, TypeError):
        return


def _safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(16)


@target(
    damaged(SHARD)
    | json_of({"model.weight[0:4]": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).map(
        _safetensors
    )
)
def shards(data: bytes) -> None:
    assembly = Assembly([SLOT], torch.device("cpu"))
    try:
        assembly.add(data)
        assembly.finish()
    except ValueError:
        return


@target(changed(SKELETON) | anything)
def skeletons(skeleton: Any) -> None:
    try:
        unflatten(skeleton, [torch.zeros(1)])
    except ValueError:
        return


@target(json_of(*EVENTS))
def untrusted_json(data: bytes) -> None:
    try:
        value = parse_json(data)
    except ValueError:
        return
    assert _levels(value) <= DEPTH


def _levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_levels, inner), default=0) if isinstance(value, dict | list) else 1


CODE = [bundle.File("train.py", b"print(1)"), bundle.File("bin/run", b"#!/bin/sh", True)]
PACKED = bundle.encode(CODE)
TAR = gzip.decompress(PACKED)


@target(damaged(PACKED) | damaged(TAR).map(gzip.compress))
def bundles_of_code(data: bytes) -> None:
    try:
        bundle.decode(data, sha256=bundle.digest(CODE), size=17)
    except bundle.BundleError:
        return
