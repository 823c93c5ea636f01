"""VMs that are network namespaces: an address and a host name of their own, a link, no trace."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from launcher.emulator import __main__ as command
from launcher.emulator.vms import netns, places
from launcher.emulator.vms.life import kill_all
from tests.launcher.emulator.running import Emulator, abandoned, pool, wait_for

MISSING = netns.missing()
needs_namespaces = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

SHOW = """
import json, os, signal, socket, urllib.request
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is told twice
print("called", socket.gethostname() == os.environ["HOSTNAME"])
print("at", socket.gethostbyname(socket.gethostname()) == os.environ["SWELL_ADDRESS"])
for hosts in json.loads(os.environ["CLUSTER_SPEC"])["cluster"].values():
    print("knows", *(socket.gethostbyname(host.partition(":")[0]) for host in hosts))
server = os.environ["GCE_METADATA_HOST"]
url = f"http://{server}/computeMetadata/v1/instance/preempted?wait_for_change=true"
print("ready", flush=True)
ask = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
print("preempted", urllib.request.urlopen(ask).read().decode(), flush=True)
"""
# Every host says its name to the other's port, and prints whom it hears: not so often that nobody
# could read all of it.
TALK = """
import os, socket, sys, time
me = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
me.bind((os.environ["SWELL_ADDRESS"], 7000))
me.settimeout(0.05)
pool, peer = sys.argv[1:]
print("up", os.getpid(), flush=True)
while True:
    time.sleep(0.01)
    me.sendto(pool.encode(), (socket.gethostbyname(peer), 7000))
    try:
        print("hears", me.recv(100).decode(), flush=True)
    except TimeoutError:
        print("hears nobody", flush=True)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    emulator = Emulator(tmp_path_factory.mktemp("netns") / "state", "--until-eof", "--vm", "netns")
    yield emulator
    assert emulator.stop() == 0


@pytest.fixture
def emulator(running: Emulator) -> Iterator[Emulator]:
    """An emulator whose VMs are network namespaces; those of a job are gone with the job."""
    before = netns.names()
    with running.turn():
        yield running
    assert abandoned(netns.names() - before) == set()


def python(script: str, *arguments: str) -> dict[str, object]:
    return pool("", command=[sys.executable, "-c", script, *arguments], args=[])


def talkers(emulator: Emulator) -> str:
    """A job whose two VMs talk to each other."""
    peer = "$(echo $CLUSTER_SPEC | grep -o 'cmle[^:]*pool{}-[^:]*')"
    script = 'exec {} -c "$TALK" {} ' + peer
    env = [{"name": "TALK", "value": TALK}]
    return emulator.create(
        pool(script.format(sys.executable, "first", 1), env=list(env)),
        pool(script.format(sys.executable, "second", 0), env=list(env)),
    )


def hears(emulator: Emulator, job: str, replica: str, whom: str) -> None:
    """Waits until the newest that a replica says is that it hears ``whom``, thrice."""
    wait_for(
        lambda: emulator.output(job, replica)[-3:], lambda lines: lines == [f"hears {whom}"] * 3
    )


@needs_namespaces
def test_a_vm_has_its_own_name_and_address_and_reaches_its_peers_and_its_metadata(
    emulator: Emulator,
) -> None:
    job = emulator.create(python(SHOW), python(SHOW))
    emulator.until_output(job, "workerpool1-0", "ready")
    replicas = emulator.replicas(job)
    first, second = (replicas[f"workerpool{index}-0"]["address"] for index in (0, 1))
    assert first != second and not first.startswith("127.")
    assert emulator.output(job, "workerpool1-0") == [
        "called True",
        "at True",
        f"knows {first}",
        f"knows {second}",
        "ready",
    ]
    emulator.act(job, "workerpool1-0", "preempt", notice="60s")
    emulator.until_output(job, "workerpool1-0", "preempted TRUE")


@needs_namespaces
def test_a_silently_lost_vm_is_cut_off_lives_on_and_is_gone_later(emulator: Emulator) -> None:
    job = talkers(emulator)
    hears(emulator, job, "workerpool0-0", "second")
    hears(emulator, job, "workerpool1-0", "first")
    pid = emulator.replicas(job)["workerpool1-0"]["pid"]
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    hears(emulator, job, "workerpool0-0", "nobody")
    hears(emulator, job, "workerpool1-0", "nobody")
    assert emulator.replicas(job)["workerpool1-0"]["pid"] == pid, "it lives on, alone"
    wait_for(lambda: emulator.replicas(job)["workerpool1-0"]["pid"], lambda pid: pid is None)
    assert emulator.replicas(job)["workerpool1-0"]["state"] == "VANISHED"
    emulator.act(job, "workerpool1-0", "restore")
    hears(emulator, job, "workerpool0-0", "second")
    hears(emulator, job, "workerpool1-0", "first")


@needs_namespaces
def test_a_vm_given_back_while_the_lost_one_lives_on_is_another_one(emulator: Emulator) -> None:
    job = talkers(emulator)
    hears(emulator, job, "workerpool0-0", "second")
    before = emulator.replicas(job)["workerpool1-0"]
    emulator.act(job, "workerpool1-0", "preempt", silent=True)
    hears(emulator, job, "workerpool0-0", "nobody")
    emulator.act(job, "workerpool1-0", "restore")
    hears(emulator, job, "workerpool0-0", "second")
    after = emulator.replicas(job)["workerpool1-0"]
    assert after["address"] == before["address"] and after["pid"] != before["pid"]


@needs_namespaces
def test_a_program_in_a_session_of_its_own_dies_with_its_vm(emulator: Emulator) -> None:
    job = emulator.create(pool("sleep 600"), pool("setsid sleep 600 & echo up; wait"))
    emulator.until_output(job, "workerpool1-0", "up")
    both = wait_for(emulator.processes, lambda found: len(found) == 6)  # each with its keeper
    emulator.act(job, "workerpool1-0", "preempt", notice="0s")
    left = wait_for(emulator.processes, lambda found: len(found) == 3)
    assert set(left) < set(both)


def number_of(emulator: Emulator, job: str) -> int:
    """The number of a job's network."""
    address = wait_for(lambda: emulator.replicas(job)["workerpool0-0"]["address"])
    return int(address.split(".")[1]) % 2 * 256 + int(address.split(".")[2])


def there_is(number: int) -> bool:
    return any(netns.number_of(name) == number for name in netns.names())


@needs_namespaces
def test_what_a_killed_emulator_left_goes_when_nobody_uses_it_any_more(
    start: Callable[..., Emulator],
) -> None:
    first = start("--vm", "netns")
    job = first.create(pool("setsid sleep 600 & echo up; sleep 600"))
    first.until(job, "RUNNING")
    first.until_output(job, "workerpool0-0", "up")
    number = number_of(first, job)
    first.stop(signal.SIGKILL)
    netns.collect()
    assert there_is(number) and first.processes(), "it is in use"
    kill_all(first.state / "vms")
    assert first.processes() == []
    netns.collect()
    assert not there_is(number)


@needs_namespaces
def test_the_next_emulator_inherits_its_networks(start: Callable[..., Emulator]) -> None:
    first = start("--vm", "netns")
    job = talkers(first)
    hears(first, job, "workerpool0-0", "second")
    first.until(job, "RUNNING")
    before, number = first.replicas(job), number_of(first, job)
    first.act(job, "workerpool1-0", "preempt", silent=True)
    hears(first, job, "workerpool0-0", "nobody")
    first.stop(signal.SIGKILL)

    second = start("--vm", "netns")
    assert second.get(job)["state"] == "JOB_STATE_RUNNING"
    assert second.replicas(job)["workerpool0-0"] == before["workerpool0-0"]
    hears(second, job, "workerpool0-0", "nobody")
    second.act(job, "workerpool1-0", "restore")
    hears(second, job, "workerpool0-0", "second")
    hears(second, job, "workerpool1-0", "first")
    assert second.replicas(job)["workerpool1-0"]["address"] == before["workerpool1-0"]["address"]
    second.http.post(f"{job}:cancel")
    second.until(job, "CANCELLED")
    assert not there_is(number)


def test_without_root_the_emulator_says_so_and_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command.main(["--state", "/nowhere", "--vm", "netns"]) == 2
    assert capsys.readouterr().err == (
        "swell emulator: --vm netns: network namespaces need root: run this as root [SW1118]\n"
    )
    assert places.missing("process") is None
