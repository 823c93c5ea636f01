"""An emulator that is killed leaves its VMs running, and the next one goes on with them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launcher.emulator.jobs.lifecycle import UNAVAILABLE
from launcher.emulator.resources.customjobs import JobState
from launcher.emulator.state import whereabouts
from launcher.emulator.vms.life import kill_all
from launcher.local import emulator as local
from tests.launcher.emulator.running import Emulator, pool, wait_for

Start = Callable[..., Emulator]

FOREVER = "sleep 1000 & wait"
COUNT = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.02; done"
# Says what its metadata server says, and when it is told.
ASK = """
import http.client, os, signal, time, urllib.request
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
url = f"http://{os.environ['GCE_METADATA_HOST']}/computeMetadata/v1/instance/preempted"
while True:
    try:
        ask = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        print(urllib.request.urlopen(ask).read().decode(), flush=True)
    except (OSError, http.client.HTTPException):  # the emulator dies, in the midst of an answer too
        pass
    time.sleep(0.05)
"""


def again(start: Start, emulator: Emulator) -> Emulator:
    """Kills an emulator. Returns the next one on the same state, which knows its processes."""
    emulator.stop(signal.SIGKILL)
    return another(start, emulator)


def another(start: Start, emulator: Emulator) -> Emulator:
    successor = start(state=emulator.state)
    successor.mark = emulator.mark
    return successor


def gate(path: Path, then: str) -> str:
    """A script that waits for a file."""
    return f"echo up; until test -e {path}; do sleep 0.02; done; {then}"


def test_vms_go_on_without_it_and_with_the_next_one(start: Start, tmp_path: Path) -> None:
    emulator = start()
    job = emulator.create(pool(gate(tmp_path / "gate", "exit 0")), pool(COUNT, 2))
    emulator.until(job, "RUNNING")
    before = emulator.replicas(job)
    emulator.stop(signal.SIGKILL)
    counted = len(emulator.output(job, "workerpool1-0"))
    wait_for(lambda: len(emulator.output(job, "workerpool1-0")) > counted + 20)

    emulator = another(start, emulator)
    assert emulator.get(job)["state"] == "JOB_STATE_RUNNING"
    assert emulator.replicas(job) == before, "with their processes and their addresses"
    counted = len(emulator.output(job, "workerpool1-1"))
    wait_for(lambda: len(emulator.output(job, "workerpool1-1")) > counted + 20)
    lines = emulator.output(job, "workerpool1-0")
    assert lines == [str(number) for number in range(len(lines))], "no line is lost"
    (tmp_path / "gate").touch()
    emulator.until(job, "SUCCEEDED")
    assert emulator.processes() == []


@pytest.mark.parametrize(
    "ends, state, says",
    [
        ("exit 0", "SUCCEEDED", None),
        ("exit 3", "FAILED", "Replica workerpool0-0 exited with status 3; its log says more."),
    ],
)
def test_what_ended_meanwhile_has_ended_as_it_did(
    start: Start, tmp_path: Path, ends: str, state: str, says: str | None
) -> None:
    emulator = start()
    job = emulator.create(pool(gate(tmp_path / "gate", ends)), pool(FOREVER))
    emulator.until(job, "RUNNING")
    pid = emulator.replicas(job)["workerpool0-0"]["pid"]
    emulator.stop(signal.SIGKILL)
    (tmp_path / "gate").touch()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    emulator = another(start, emulator)
    assert emulator.until(job, state).get("error", {}).get("message") == says
    assert emulator.processes() == []


def test_a_notice_goes_on_and_is_over_when_it_was_to_be(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(FOREVER), pool("", 2, command=[sys.executable, "-c", ASK], args=[]))
    emulator.until_output(job, "workerpool1-0", "FALSE")
    emulator.until_output(job, "workerpool1-1", "FALSE")
    emulator.until(job, "RUNNING")
    emulator.act(job, "workerpool1-0", "preempt", notice="1h")
    emulator.act(job, "workerpool1-1", "preempt", notice="2s")
    emulator.until_output(job, "workerpool1-0", "told")
    emulator.until_output(job, "workerpool1-1", "told")
    emulator.stop(signal.SIGKILL)
    seen = emulator.output(job, "workerpool1-0").count("TRUE")
    emulator = another(start, emulator)
    emulator.until_output(job, "workerpool1-0", "TRUE", seen + 5)
    wait_for(lambda: emulator.replicas(job)["workerpool1-1"]["pid"], lambda pid: pid is None)
    replica = emulator.replicas(job)["workerpool1-0"]
    assert replica["pid"] and replica["state"] == "PREEMPTED"
    assert emulator.output(job, "workerpool1-0").count("told") == 1
    emulator.act(job, "workerpool1-1", "restore")
    emulator.until_replica(job, "workerpool1-1", "RUNNING")


def test_a_vm_that_vanished_stays_away_until_it_is_given_back(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(FOREVER), pool(COUNT))
    emulator.until(job, "RUNNING")
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    emulator.until_replica(job, "workerpool1-0", "VANISHED")
    emulator = again(start, emulator)
    assert emulator.replicas(job)["workerpool1-0"]["state"] == "VANISHED"
    emulator.act(job, "workerpool1-0", "restore")
    emulator.until_output(job, "workerpool1-0", "0", times=2)
    assert emulator.get(job)["state"] == "JOB_STATE_RUNNING"


def test_a_job_that_was_being_cancelled_is_cancelled(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool("trap '' TERM; " + FOREVER))
    emulator.until(job, "RUNNING")
    emulator.http.post(f"{job}:cancel")
    emulator = again(start, emulator)
    assert emulator.until(job, "CANCELLED")["error"]["code"] == 1
    assert emulator.processes() == []


def test_a_queued_job_waits_on(start: Start, tmp_path: Path) -> None:
    market = tmp_path / "market.json"
    market.write_text(
        json.dumps({"capacity": [{"machine": "a2-highgpu-1g", "vms": {"0s": 0, "3s": 1}}]})
    )
    emulator = start("--market", str(market))
    job = emulator.create(pool("true"), scheduling={"strategy": "SPOT"})
    emulator.until(job, "QUEUED")
    emulator.stop(signal.SIGKILL)
    emulator = start("--market", str(market))
    ended = emulator.until(job, "SUCCEEDED")
    assert "error" not in ended and ended["startTime"] > ended["createTime"]


def test_restarts_are_counted_on(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(FOREVER), pool("echo up; " + FOREVER))
    for times in (1, 2):
        emulator.until_output(job, "workerpool1-0", "up", times)
        pid = emulator.until_replica(job, "workerpool1-0", "RUNNING")["pid"]
        emulator.stop(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        emulator = another(start, emulator)
        replica = emulator.until_replica(job, "workerpool1-0", "RUNNING")
        assert replica["restarts"] == times


def test_a_vm_is_gone_whose_keeper_was_killed_too(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(FOREVER), pool("echo up; set -m; sleep 1000 & sleep 1000"))
    emulator.until_output(job, "workerpool1-0", "up")
    emulator.until(job, "RUNNING")
    (record,) = (emulator.state / "vms").glob("*/workerpool1-0/1")
    emulator.stop(signal.SIGKILL)
    os.kill(json.loads(record.read_text())["keeper"], signal.SIGKILL)
    emulator = another(start, emulator)
    emulator.until_output(job, "workerpool1-0", "up", times=2)
    assert emulator.replicas(job)["workerpool1-0"]["restarts"] == 1


def test_a_process_that_has_a_vms_number_by_now_is_left_alone(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(FOREVER), pool("echo up; " + FOREVER))
    emulator.until_output(job, "workerpool1-0", "up")
    emulator.until(job, "RUNNING")
    (record,) = (emulator.state / "vms").glob("*/workerpool1-0/1")
    emulator.stop(signal.SIGKILL)
    kill_all(record.parent)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as bystander:
        # As after a start of the machine, which gives the same numbers anew.
        stale = {**json.loads(record.read_text().splitlines()[0]), "boot": "another"}
        record.write_text(
            json.dumps({**stale, "keeper": bystander.pid, "command": bystander.pid}) + "\n"
        )
        emulator = another(start, emulator)
        emulator.until_output(job, "workerpool1-0", "up", times=2)
        assert bystander.poll() is None
        bystander.kill()


def test_one_that_hangs_is_stopped_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STOP_LIMIT", 0.2)
    emulator = start()
    job = emulator.create(pool("setsid sleep 1000 & echo up; wait"))
    emulator.until_output(job, "workerpool0-0", "up")
    emulator.process.send_signal(signal.SIGSTOP)
    assert local.goes_on(emulator.state)
    assert local.stop(emulator.state)
    assert not local.goes_on(emulator.state) and not local.stop(emulator.state)
    assert emulator.processes() == []


def test_what_is_in_vms_environments_stays_theirs(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool("echo $GCE_METADATA_HOST $STORAGE_EMULATOR_HOST; " + FOREVER))
    emulator.until(job, "RUNNING")
    wait_for(lambda: emulator.output(job, "workerpool0-0"))
    metadata, storage = emulator.output(job, "workerpool0-0")[0].split()
    ports = [
        text.rpartition("/")[2].partition(":") for text in (metadata, storage, emulator.endpoint)
    ]
    emulator.stop(signal.SIGKILL)
    for address, _, port in ports:
        with socket.socket() as stranger, pytest.raises(OSError):
            stranger.bind((address, int(port)))
    elsewhere = start(state=emulator.state.with_name("elsewhere"))
    other = elsewhere.create(pool(FOREVER))
    elsewhere.until(other, "RUNNING")
    address = elsewhere.replicas(other)["workerpool0-0"]["address"]
    assert address != metadata.partition(":")[0], "the address is taken as long as the VM lives"

    emulator = another(start, emulator)
    for address, _, port in ports:
        with socket.create_connection((address, int(port))):
            pass
    assert emulator.replicas(job)["workerpool0-0"]["address"] == metadata.partition(":")[0]


def test_what_cannot_be_had_back_is_killed_and_has_failed(start: Start) -> None:
    emulator = start()
    jobs = [emulator.create(pool("set -m; sleep 1000 & wait")) for _ in range(3)]
    for job in jobs:
        emulator.until(job, "RUNNING")
    emulator.stop(signal.SIGKILL)
    for job, content in zip(jobs, ('{"number": 1}', "[", ""), strict=True):
        (emulator.state / "running" / f"{job.rpartition('/')[2]}.json").write_text(content)
    emulator = another(start, emulator)
    for job in jobs:
        error = emulator.until(job, "FAILED")["error"]
        assert (error["code"], "was stopped" in error["message"]) == (14, True)
    assert emulator.processes() == []


@pytest.mark.parametrize("found", ["", '{"name": "another"}'])
def test_a_job_whose_record_is_damaged_has_failed_and_keeps_no_other_from_going_on(
    start: Start, found: str
) -> None:
    emulator = start()
    lost, kept = emulator.create(pool(FOREVER)), emulator.create(pool(FOREVER))
    for job in (lost, kept):
        emulator.until(job, "RUNNING")
    before, (gone,) = emulator.replicas(kept), emulator.replicas(lost).values()
    emulator.stop(signal.SIGKILL)
    number = lost.rpartition("/")[2]
    (emulator.state / "jobs" / f"{number}.json").write_text(found)
    emulator = another(start, emulator)
    assert emulator.get(lost)["state"] == "JOB_STATE_FAILED", "so another attempt may follow"
    assert emulator.get(lost)["error"]["code"] == UNAVAILABLE
    assert emulator.get(kept)["state"] == "JOB_STATE_RUNNING"
    assert emulator.replicas(kept) == before
    assert gone["pid"] not in emulator.processes()
    assert emulator.http.delete(kept).status_code == 200


def test_whoever_started_it_may_be_killed_before_it_serves(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(COUNT))
    emulator.until(job, "RUNNING")
    emulator.stop(signal.SIGKILL)
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "launcher.emulator", "--state", str(emulator.state)]
    with subprocess.Popen(program, stdout=writer) as orphan:
        try:
            os.close(writer)
            where = wait_for(
                lambda: whereabouts(emulator.state), lambda where: bool(where and where.endpoint)
            )
            assert where and where.pid == orphan.pid
            counted = len(emulator.output(job, "workerpool0-0"))
            wait_for(lambda: len(emulator.output(job, "workerpool0-0")) > counted + 20)
            orphan.terminate()
            assert orphan.wait() == 0
        finally:
            orphan.kill()
    assert emulator.processes() == []


def test_vms_that_were_granted_and_not_made_are_made(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool(FOREVER), pool(FOREVER))
    emulator.until(job, "RUNNING")
    emulator.stop(signal.SIGKILL)
    kill_all(emulator.state / "vms")
    shutil.rmtree(emulator.state / "vms")
    (path,) = (emulator.state / "running").glob("[0-9]*.json")
    kept = json.loads(path.read_text())
    kept["machines"]["vms"] = {}
    kept["lifecycle"]["state"] = JobState.PENDING
    for replica in kept["lifecycle"]["replicas"].values():
        replica["state"] = "STARTING"
    path.write_text(json.dumps(kept))
    emulator = another(start, emulator)
    emulator.until(job, "RUNNING")
    made = emulator.replicas(job).values()
    assert len(made) == 2 and all(one["state"] == "RUNNING" and one["pid"] for one in made)


def test_whenever_it_is_killed_each_replica_runs_once(start: Start, tmp_path: Path) -> None:
    draw = random.Random(7)
    emulator = start()
    for number in range(3):
        mine = tmp_path / str(number)
        mine.mkdir()
        up = partial(os.listdir, mine)
        alone = f"mkdir {mine}/$HOSTNAME || echo twice; trap 'rmdir {mine}/$HOSTNAME; exit' TERM; "
        job = emulator.create(pool(alone + FOREVER), pool(alone + FOREVER, 2))
        time.sleep(draw.random() * 0.4)
        emulator = again(start, emulator)
        emulator.until(job, "RUNNING")
        wait_for(up, lambda names: len(names) == 3)
        emulator.http.post(f"{job}:cancel")
        time.sleep(draw.random() * 0.1)
        emulator = again(start, emulator)
        emulator.until(job, "CANCELLED")
        for replica in ("workerpool0-0", "workerpool1-0", "workerpool1-1"):
            assert "twice" not in emulator.output(job, replica)
    assert emulator.processes() == []


def test_what_it_left_can_be_cleared_away_without_it(start: Start) -> None:
    emulator = start()
    job = emulator.create(pool("setsid sleep 1000 & echo up; wait"))
    emulator.until_output(job, "workerpool0-0", "up")
    emulator.stop(signal.SIGKILL)
    kill_all(emulator.state / "vms")
    assert emulator.processes() == []
