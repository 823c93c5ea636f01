"""A job's life, against a really started emulator whose containers are small scripts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.emulator.running import Emulator, pool, wait_for

FOREVER = "sleep 1000 & wait"  # unlike sleep alone, it heeds a trap at once


def script(path: Path, text: str) -> str:
    path.write_text(text)
    return f"exec python {path}"


def test_the_job_succeeds_when_the_primary_exits_with_0_and_the_others_are_shut_down(
    emulator: Emulator,
) -> None:
    job = emulator.create(pool("echo done"), pool(FOREVER, 2), {}, pool(FOREVER))
    ended = emulator.until(job, "SUCCEEDED", "FAILED")
    assert ended["state"] == "JOB_STATE_SUCCEEDED"
    assert "error" not in ended
    assert ended["createTime"] <= ended["startTime"] <= ended["endTime"] == ended["updateTime"]
    assert emulator.output(job, "workerpool0-0") == ["done"]
    assert emulator.processes() == []


def test_a_replica_that_is_not_the_primary_may_exit_with_0(
    emulator: Emulator, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = emulator.create(pool(f"until test -e {gate}; do sleep 0.05; done"), pool("exit 0"))
    emulator.until_replica(job, "workerpool1-0", "EXITED")
    assert emulator.get(job)["state"] == "JOB_STATE_RUNNING"
    gate.touch()
    emulator.until(job, "SUCCEEDED")


def test_the_job_fails_with_a_replica_that_exits_with_1(emulator: Emulator) -> None:
    job = emulator.create(pool(FOREVER), pool("echo no luck >&2; exit 1"))
    ended = emulator.until(job, "FAILED", "SUCCEEDED")
    assert ended["error"] == {
        "code": 3,
        "message": "Replica workerpool1-0 exited with status 1; its log says more.",
    }
    assert emulator.output(job, "workerpool1-0") == ["no luck"]
    assert emulator.processes() == []


def test_a_command_that_does_not_exist_fails_the_job_and_says_so(emulator: Emulator) -> None:
    job = emulator.create(pool("", command=["no-such-program"]))
    assert "status 127" in emulator.until(job, "FAILED")["error"]["message"]
    assert emulator.output(job, "workerpool0-0") == [
        "cannot run 'no-such-program': No such file or directory"
    ]


def test_a_replica_that_was_killed_is_restarted_under_its_name(
    emulator: Emulator, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    job = emulator.create(
        pool(FOREVER),
        # $$ in a job's arguments is one $, as documented: the shell needs two.
        pool(f"echo $HOSTNAME >> {count}; test $(wc -l < {count}) -ge 3 && exit 0; kill -9 $$$$"),
    )
    replica = emulator.until_replica(job, "workerpool1-0", "EXITED")
    assert replica["restarts"] == 2
    assert len(set(count.read_text().split())) == 1
    assert emulator.get(job)["state"] == "JOB_STATE_RUNNING"


def test_the_whole_job_is_restarted_three_times_after_a_segmentation_fault(
    emulator: Emulator, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    faulty = f"echo again; until rm {up} 2>/dev/null; do sleep 0.02; done; exit 139"
    job = emulator.create(pool(f"echo again; touch {up}; exec sleep 1000"), pool(faulty))
    error = emulator.until(job, "FAILED")["error"]
    assert "The job had been restarted 3 times" in error["message"]
    assert emulator.output(job, "workerpool1-0") == ["again"] * 4
    assert emulator.output(job, "workerpool0-0") == ["again"] * 4
    assert emulator.processes() == []


def test_a_job_that_runs_for_longer_than_its_timeout_fails(emulator: Emulator) -> None:
    job = emulator.create(pool(FOREVER), scheduling={"timeout": "0.3s"})
    error = emulator.until(job, "FAILED")["error"]
    assert (error["code"], "longer than its timeout" in error["message"]) == (4, True)


def test_cancel(emulator: Emulator) -> None:
    job = emulator.create(pool(f"trap 'echo bye; exit 0' TERM; echo ready; {FOREVER}"))
    emulator.until_output(job, "workerpool0-0", "ready")
    assert emulator.http.post(f"{job}:cancel", json={}).json() == {}
    ended = emulator.until(job, "CANCELLED", "SUCCEEDED", "FAILED")
    assert ended["state"] == "JOB_STATE_CANCELLED"
    assert emulator.output(job, "workerpool0-0") == ["ready", "bye"]
    assert emulator.processes() == []
    again = emulator.http.post(f"{job}:cancel", json={})
    assert (again.status_code, again.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")


def test_cancel_ends_a_replica_that_does_not_listen(emulator: Emulator) -> None:
    job = emulator.create(pool(f"trap '' TERM; echo ready; {FOREVER}"))
    emulator.until_output(job, "workerpool0-0", "ready")
    emulator.http.post(f"{job}:cancel")
    emulator.until(job, "CANCELLED")
    assert emulator.processes() == []


def test_delete_kills_a_running_job_and_forgets_it(emulator: Emulator) -> None:
    job = emulator.create(pool(f"trap '' TERM; echo ready; {FOREVER}"), pool(FOREVER))
    emulator.until_output(job, "workerpool0-0", "ready")
    operation = emulator.http.delete(job).json()
    assert operation["done"] is True
    assert emulator.processes() == []
    assert emulator.http.get(job).status_code == 404
    assert emulator.http.delete(job).status_code == 404


def test_what_the_command_started_ends_with_it(emulator: Emulator) -> None:
    # A shell with job control puts its background job into another process group.
    job = emulator.create(pool("set -m; sleep 1000 & sleep 1000 & exit 0"))
    emulator.until(job, "SUCCEEDED")
    assert emulator.processes() == []


def test_a_program_that_leaves_its_vm_ends_with_the_emulator(
    start: Callable[..., Emulator],
) -> None:
    emulator = start()
    job = emulator.create(pool("setsid sh -c 'echo away; sleep 1000' & wait"))
    emulator.until_output(job, "workerpool0-0", "away")
    emulator.http.delete(job)
    assert emulator.stop() == 0
    assert emulator.processes() == []


def test_replicas_know_who_and_where_they_are(emulator: Emulator, tmp_path: Path) -> None:
    job = emulator.create(
        pool(FOREVER),
        pool("env", 2, env=[{"name": "MINE", "value": "$(HOSTNAME)/$(NOTHING)/$$(HOSTNAME)"}]),
        baseOutputDirectory={"outputUriPrefix": str(tmp_path / "run")},
    )
    replicas = [f"workerpool1-{index}" for index in range(2)]
    for name in replicas:
        emulator.until_replica(job, name, "EXITED")
    job_id = job.rpartition("/")[2]
    environments = [
        dict(line.split("=", 1) for line in emulator.output(job, name)) for name in replicas
    ]
    for index, environment in enumerate(environments):
        spec = json.loads(environment["CLUSTER_SPEC"])
        assert spec["task"] == {"type": "workerpool1", "index": index}
        hostname = spec["cluster"]["workerpool1"][index].rpartition(":")[0]
        assert environment["HOSTNAME"] == hostname
        assert environment["MINE"] == f"{hostname}/$(NOTHING)/$(HOSTNAME)"
        assert environment["CLOUD_ML_JOB_ID"] == job_id
        assert environment["AIP_CHECKPOINT_DIR"] == f"{tmp_path}/run/checkpoints/"
        assert environment["GCE_METADATA_HOST"].split(":")[0] == environment["SWELL_ADDRESS"]
        assert "PYTEST_CURRENT_TEST" not in environment
    addresses = {replica["address"] for replica in emulator.replicas(job).values()}
    assert len(addresses) == 3 and "127.0.0.1" not in addresses


def test_output_is_kept_line_by_line_whatever_it_is(emulator: Emulator, tmp_path: Path) -> None:
    program = script(
        tmp_path / "noise.py",
        "import sys\n"
        "sys.stdout.buffer.write(b'caf\\xc3\\xa9\\n\\xff\\x00\\n\\n' + b'x' * 40000 + b'\\nend')\n",
    )
    job = emulator.create(pool(program))
    emulator.until(job, "SUCCEEDED")
    lines = emulator.output(job, "workerpool0-0")
    assert lines[:3] == ["café", "\ufffd\0", ""]
    assert "".join(lines[3:-1]) == "x" * 40000
    assert max(map(len, lines)) <= 16384
    assert lines[-1] == "end"


# Says when it is told to go, by signal and by metadata, and then waits to be killed.
LISTENER = """
import os, signal, time, urllib.request

signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM", flush=True))
url = "http://" + os.environ["GCE_METADATA_HOST"] + "/computeMetadata/v1/instance/preempted"

def ask(query=""):
    request = urllib.request.Request(url + query, headers={"Metadata-Flavor": "Google"})
    return urllib.request.urlopen(request).read().decode()

print("at first", ask(), flush=True)
print("then", ask("?wait_for_change=true"), flush=True)
while True:
    time.sleep(1)
"""


def test_a_preempted_vm_is_told_and_killed_when_its_notice_is_over(
    emulator: Emulator, tmp_path: Path
) -> None:
    listener = script(tmp_path / "listener.py", LISTENER)
    job = emulator.create(pool(FOREVER), pool(listener, 2))
    emulator.until_output(job, "workerpool1-1", "at first FALSE")
    pid = emulator.replicas(job)["workerpool1-1"]["pid"]
    emulator.act(job, "workerpool1-1", "preempt", notice="2s")
    emulator.until_output(job, "workerpool1-1", "SIGTERM")
    emulator.until_output(job, "workerpool1-1", "then TRUE")
    gone = wait_for(
        lambda: emulator.replicas(job)["workerpool1-1"], lambda replica: replica["pid"] is None
    )
    assert gone["state"] == "PREEMPTED"
    assert not Path(f"/proc/{pid}").exists()
    assert emulator.get(job)["state"] == "JOB_STATE_RUNNING"
    assert emulator.ask(job, "workerpool1-1", "preempt").status_code == 400

    emulator.act(job, "workerpool1-1", "restore")
    back = emulator.until_replica(job, "workerpool1-1", "RUNNING")
    assert (back["address"], back["restarts"]) == (gone["address"], 0)
    emulator.until_output(job, "workerpool1-1", "at first FALSE", times=2)


def test_a_vm_that_does_not_survive_its_notice_is_preempted_not_failed(
    emulator: Emulator,
) -> None:
    job = emulator.create(pool(FOREVER), pool(f"echo ready; {FOREVER}"))
    emulator.until_output(job, "workerpool1-0", "ready")
    emulator.act(job, "workerpool1-0", "preempt", notice="1h")
    wait_for(lambda: emulator.replicas(job)["workerpool1-0"]["pid"], lambda pid: pid is None)
    assert emulator.replicas(job)["workerpool1-0"]["state"] == "PREEMPTED"
    assert emulator.replicas(job)["workerpool1-0"]["restarts"] == 0
    assert emulator.get(job)["state"] == "JOB_STATE_RUNNING"


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_vm_vanishes_with_all_its_processes_and_comes_back_as_a_new_one(
    emulator: Emulator,
) -> None:
    job = emulator.create(pool(FOREVER), pool("sleep 1000 & echo up; wait"))
    emulator.until_output(job, "workerpool1-0", "up")
    before = emulator.until_replica(job, "workerpool1-0", "RUNNING")
    emulator.until(job, "RUNNING")
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    vanished = emulator.until_replica(job, "workerpool1-0", "VANISHED")
    assert vanished["pid"] == before["pid"]
    session = [pid for pid in emulator.processes() if os.getsid(pid) == before["pid"]]
    assert len(session) == 2
    wait_for(lambda: all(map(stopped, session)))

    emulator.act(job, "workerpool1-0", "restore")
    after = emulator.until_replica(job, "workerpool1-0", "RUNNING")
    assert after["pid"] != before["pid"] and after["address"] == before["address"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in session)
    emulator.until_output(job, "workerpool1-0", "up", times=2)


def test_a_job_with_a_vanished_vm_can_end(emulator: Emulator, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = emulator.create(pool(f"until test -e {gate}; do sleep 0.05; done"), pool(FOREVER))
    emulator.until_replica(job, "workerpool1-0", "RUNNING")
    emulator.until(job, "RUNNING")
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    gate.touch()
    emulator.until(job, "SUCCEEDED")
    assert emulator.processes() == []


@pytest.mark.parametrize(
    "replica, verb, body, code, says",
    [
        ("workerpool1-7", "preempt", {}, 404, "no replica workerpool1-7"),
        ("workerpool0-0", "restore", {}, 400, "nothing to restore"),
        ("workerpool0-0", "preempt", {"notice": 5}, 400, "notice needs a unit"),
        ("workerpool0-0", "preempt", {"notice": "5s", "silent": True}, 400, "either notice or"),
        ("workerpool0-0", "preempt", {"soon": True}, 400, 'Unknown name "soon"'),
    ],
)
def test_what_cannot_be_done_to_a_replica_is_refused(
    emulator: Emulator, replica: str, verb: str, body: dict[str, object], code: int, says: str
) -> None:
    job = emulator.create(pool(FOREVER))
    emulator.until(job, "RUNNING")
    answer = emulator.ask(job, replica, verb, **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (code, code)
    assert says in answer.json()["error"]["message"]


def test_a_command_that_writes_into_a_closed_pipe_ends_as_it_would_in_a_shell(
    emulator: Emulator,
) -> None:
    # Python ignores SIGPIPE; the command must not inherit that.
    job = emulator.create(pool("grep SigIgn /proc/self/status"))
    emulator.until(job, "SUCCEEDED")
    (line,) = emulator.output(job, "workerpool0-0")
    assert int(line.split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0
