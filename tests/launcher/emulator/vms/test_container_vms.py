"""VMs that are containers: what a program in one sees, and that nothing of them is left.

``make test-container`` builds an image and runs these; without one they are skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.vms import containers
from tests.launcher.emulator.running import Emulator, pool, wait_for

IMAGE = os.environ.get("SWELL_TEST_IMAGE", "")

pytestmark = pytest.mark.skipif(
    not IMAGE, reason="no image to test: make test-container builds one"
)

SHOW = """
import json, os, socket, urllib.request
print("called", socket.gethostname() == os.environ["HOSTNAME"])
print("at", socket.gethostbyname(socket.gethostname()) == os.environ["SWELL_ADDRESS"])
for hosts in json.loads(os.environ["CLUSTER_SPEC"])["cluster"].values():
    print("knows", *(socket.gethostbyname(host.partition(":")[0]) for host in hosts))
for name in ("v2", "v1"):
    path = {"v2": "/sys/fs/cgroup/memory.max", "v1": "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
    if os.path.exists(path[name]):
        print("memory", open(path[name]).read().strip())
        break
print("sees this machine's files", os.path.exists(os.environ["THERE"]))
print("home", os.environ["HOME"], "odd", os.environ["ODD"])
buckets = os.environ["STORAGE_EMULATOR_HOST"] + "/storage/v1/b?project=p"
print("buckets", urllib.request.urlopen(buckets).status)
server = os.environ["GCE_METADATA_HOST"]
url = f"http://{server}/computeMetadata/v1/instance/preempted?wait_for_change=true"
print("ready", flush=True)
ask = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
print("preempted", urllib.request.urlopen(ask).read().decode(), flush=True)
"""
# Says its name to the other's port, and prints whom it hears.
TALK = """
import os, socket, sys
me = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
me.bind((os.environ["SWELL_ADDRESS"], 7000))
me.settimeout(0.05)
host = os.environ["HOSTNAME"]
mine, other = ("0", "1") if "workerpool0" in host else ("1", "0")
peer = host.replace(f"workerpool{mine}", f"workerpool{other}")
while True:
    me.sendto(mine.encode(), (socket.gethostbyname(peer), 7000))
    try:
        print("hears", me.recv(100).decode(), flush=True)
    except TimeoutError:
        print("hears nobody", flush=True)
"""


def ours() -> set[str]:
    """Containers of VMs, running or not."""
    listed = subprocess.run(
        [
            "podman",
            "ps",
            "--all",
            "--filter",
            f"label={containers.LABEL}",
            "--format",
            "{{.Names}}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


@pytest.fixture
def emulator(start: Callable[..., Emulator]) -> Iterator[Emulator]:
    emulator = start("--vm", "container", "--memory", "256MiB")
    yield emulator
    assert emulator.stop() == 0
    assert ours() == set()


def python(script: str, **env: str) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in env.items()]
    return pool("", imageUri=IMAGE, command=["python", "-c", script], args=[], env=variables)


def shell(script: str) -> dict[str, Any]:
    return pool(script, imageUri=IMAGE)


def test_a_vm_has_its_own_name_address_memory_and_files_and_reaches_peers_and_services(
    emulator: Emulator,
) -> None:
    env = {"THERE": str(emulator.state), "ODD": "two\nlines = 'x' $HOME", "HOME": "/mine"}
    job = emulator.create(python(SHOW, **env), python(SHOW, **env))
    emulator.until_output(job, "workerpool1-0", "ready")
    replicas = emulator.replicas(job)
    first, second = (replicas[f"workerpool{index}-0"]["address"] for index in (0, 1))
    assert first != second and first.startswith("198.")
    assert emulator.output(job, "workerpool1-0") == [
        "called True",
        "at True",
        f"knows {first}",
        f"knows {second}",
        f"memory {256 * 2**20}",
        "sees this machine's files False",
        "home /mine odd two",
        "lines = 'x' $HOME",
        "buckets 200",
        "ready",
    ]
    emulator.act(job, "workerpool1-0", "preempt", notice="60s")
    emulator.until_output(job, "workerpool1-0", "preempted TRUE")


def test_a_notice_is_sigterm_and_then_the_vm_is_killed(emulator: Emulator) -> None:
    deaf = "trap 'echo told' TERM; echo up; while true; do sleep 0.1; done"
    job = emulator.create(shell("sleep 600"), shell(deaf))
    emulator.until_output(job, "workerpool1-0", "up")
    emulator.act(job, "workerpool1-0", "preempt", notice="3s")
    emulator.until_output(job, "workerpool1-0", "told")
    assert emulator.replicas(job)["workerpool1-0"]["pid"], "it may go on for its notice"
    wait_for(lambda: emulator.replicas(job)["workerpool1-0"]["pid"], lambda pid: pid is None)
    wait_for(ours, lambda names: len(names) == 1)
    emulator.act(job, "workerpool1-0", "restore")
    emulator.until_output(job, "workerpool1-0", "up", times=2)


def test_a_silently_lost_vm_is_cut_off_and_gone_later(emulator: Emulator) -> None:
    job = emulator.create(python(TALK), python(TALK))

    def hears(replica: str, whom: str) -> None:
        wait_for(
            lambda: emulator.output(job, replica)[-3:],
            lambda lines: lines == [f"hears {whom}"] * 3,
        )

    hears("workerpool0-0", "1")
    hears("workerpool1-0", "0")
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    hears("workerpool0-0", "nobody")
    wait_for(lambda: emulator.replicas(job)["workerpool1-0"]["pid"], lambda pid: pid is None)
    assert emulator.replicas(job)["workerpool1-0"]["state"] == "VANISHED"
    emulator.act(job, "workerpool1-0", "restore")
    hears("workerpool0-0", "1")


def test_what_a_killed_emulator_left_lives_on_and_is_the_next_ones(
    start: Callable[..., Emulator], tmp_path: Path
) -> None:
    first = start("--vm", "container")
    job = first.create(shell("sleep 600"), shell("sleep 600"))
    first.until(job, "RUNNING")
    wait_for(ours, lambda names: len(names) == 2)
    first.stop(signal.SIGKILL)
    other = start("--vm", "container", state=tmp_path / "other")
    another = other.create(shell("sleep 600"))
    other.until(another, "RUNNING")
    wait_for(ours, lambda names: len(names) == 3)  # it takes nothing of the first along
    assert other.stop() == 0
    wait_for(ours, lambda names: len(names) == 2)
    second = start("--vm", "container")
    assert second.get(job)["state"] == "JOB_STATE_RUNNING"
    assert second.stop() == 0
    assert ours() == set() and first.processes() == []


def test_an_image_that_is_not_here_fails_the_job_and_says_so(emulator: Emulator) -> None:
    job = emulator.create(pool("true", imageUri="localhost/not-there"))
    ended = emulator.until(job, "FAILED")
    assert "there is no image localhost/not-there on this machine" in ended["error"]["message"]
