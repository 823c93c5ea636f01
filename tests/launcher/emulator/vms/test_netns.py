"""Network namespaces as VMs: what programs in them see, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.emulator.vms import commands, netns
from launcher.emulator.vms.netns import Host, Network
from launcher.emulator.vms.processes import process_table
from tests.launcher.emulator.running import abandoned, wait_for

ROOT = Path(__file__).parents[4]
MISSING = netns.missing()
needs_namespaces = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

# Prints what comes in on its own address, with who sent it; or sends one word to another.
LISTEN = """
import socket
me = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
me.bind((socket.gethostbyname(socket.gethostname()), 7000))
print("listening", flush=True)
while True:
    word, sender = me.recvfrom(100)
    print(word.decode(), sender[0], flush=True)
"""
SAY = """
import socket, sys
me = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
me.sendto(sys.argv[2].encode(), (sys.argv[1], 7000))
"""

# Says how a host answers to whom nobody listens at this port.
CONNECT = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 7001), 1.5)
except TimeoutError:
    print("silence")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
REACHED = "ECONNREFUSED"

# Sends to an address that may not be there, as fast as it can.
PESTER = """
import socket, sys
me = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        me.sendto(b"x", (sys.argv[1], 7000))
    except OSError:
        pass
"""

TTL = "/proc/sys/net/ipv4/ip_default_ttl"


class Listener:
    """A program in a host that tells what it hears."""

    def __init__(self, host: Host) -> None:
        self.process = subprocess.Popen(
            host.command([sys.executable, "-c", LISTEN]), stdout=subprocess.PIPE, text=True
        )
        assert self.hears() == "listening"

    def hears(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip()


@pytest.fixture
def listen() -> Iterator[Callable[[Host], Listener]]:
    listeners = []

    def start(host: Host) -> Listener:
        listeners.append(Listener(host))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.process.kill()
        listener.process.wait()
        assert listener.process.stdout
        listener.process.stdout.close()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(["vm-a", "vm-b"]) as network:
        yield network
    assert names_of(network.number) == set()


def names_of(number: int) -> set[str]:
    """Namespaces, files, interfaces and cgroups of a network, as they are on this machine."""
    return {name for name in netns.names() if netns.number_of(name) == number}


def lives(pid: int) -> bool:
    return any(process.pid == pid and not process.dead for process in process_table())


def say(host: Host, to: str, word: str) -> int:
    return subprocess.run(host.command([sys.executable, "-c", SAY, to, word])).returncode


def connect(host: Host, address: str) -> str:
    """How an address answers a host: REACHED, the name of an error, or silence."""
    return output(host, sys.executable, "-c", CONNECT, address)


def output(host: Host, *command: str) -> str:
    return subprocess.run(
        host.command(command), stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


@needs_namespaces
def test_a_host_has_a_name_and_an_address_that_its_peers_and_this_machine_know(
    network: Network, listen: Callable[[Host], Listener]
) -> None:
    a, b = network.hosts
    assert output(a, "hostname") == "vm-a" and output(b, "hostname") == "vm-b"
    assert output(a, "getent", "hosts", "vm-b").split() == [b.address, "vm-b"]
    listener = listen(b)  # binds to what its own name means
    assert say(a, "vm-b", "hello") == 0
    assert listener.hears() == f"hello {a.address}"
    subprocess.run([sys.executable, "-c", SAY, b.address, "hello"], check=True)
    assert listener.hears() == f"hello {network.gateway}"


@needs_namespaces
def test_nothing_else_is_reachable_and_unknown_names_fail_at_once(network: Network) -> None:
    began = time.monotonic()
    look_up = network.hosts[0].command(["getent", "hosts", "metadata.google.internal"])
    assert subprocess.run(look_up).returncode == 2
    assert time.monotonic() - began < 4.0, "a name server was asked and did not answer"
    assert output(network.hosts[0], "ip", "route", "show", "default") == ""


@needs_namespaces
def test_a_cut_link_is_silent_in_both_directions_and_heals_at_once(
    network: Network, listen: Callable[[Host], Listener]
) -> None:
    a, b = network.hosts
    in_a, in_b = listen(a), listen(b)
    a.cut()
    assert say(a, b.address, "lost") == 0, "nobody is told"
    assert say(b, a.address, "lost") == 0
    a.heal()
    say(a, b.address, "found")
    say(b, a.address, "found")
    assert in_b.hears() == f"found {a.address}"
    assert in_a.hears() == f"found {b.address}"


@needs_namespaces
@pytest.mark.parametrize("with_cgroups", [True, False])
def test_a_killed_host_has_no_process_left_whatever_session_it_was_in(
    monkeypatch: pytest.MonkeyPatch, with_cgroups: bool
) -> None:
    if not with_cgroups:
        monkeypatch.setattr(netns, "cgroup_root", lambda: None)
    with Network(["vm-a"]) as network:
        (host,) = network.hosts
        process = subprocess.Popen(host.command(["sh", "-c", "setsid sleep 600 & sleep 600"]))
        wait_for(host.processes, lambda found: len(found) == 3)
        assert process.pid in host.processes(), "the command is the process"
        host.freeze()
        host.kill()
        assert host.processes() == [] and process.wait() == -signal.SIGKILL


@needs_namespaces
@pytest.mark.parametrize("with_cgroups", [True, False])
def test_a_frozen_host_does_nothing_until_it_is_thawed(
    monkeypatch: pytest.MonkeyPatch, listen: Callable[[Host], Listener], with_cgroups: bool
) -> None:
    if not with_cgroups:
        monkeypatch.setattr(netns, "cgroup_root", lambda: None)
    with Network(["vm-a", "vm-b"]) as network:
        a, b = network.hosts
        listener = listen(b)
        b.freeze()
        say(a, b.address, "first")
        time.sleep(0.2)
        assert listener.process.stdout
        os.set_blocking(listener.process.stdout.fileno(), False)
        assert not listener.process.stdout.buffer.read()  # type: ignore[attr-defined]
        os.set_blocking(listener.process.stdout.fileno(), True)
        b.thaw()
        assert listener.hears() == f"first {a.address}"


@needs_namespaces
def test_a_renewed_host_is_another_one_under_the_old_name_and_address(
    network: Network, listen: Callable[[Host], Listener]
) -> None:
    a, b = network.hosts
    before = listen(b)
    (netns.NAMESPACES / b.name).stat()
    output(b, "sh", "-c", f"echo 77 >{TTL}")  # of this namespace alone, and it goes with it
    assert output(b, "cat", TTL) == "77"
    b.cut()
    b.renew()
    assert before.process.wait() == -signal.SIGKILL
    assert output(b, "cat", TTL) != "77"
    assert output(b, "hostname") == "vm-b"
    after = listen(b)
    say(a, "vm-b", "again")
    assert after.hears() == f"again {a.address}"


@needs_namespaces
def test_a_host_is_renewed_while_its_peers_send_to_it(network: Network) -> None:
    """Whoever sends to an address that has just come up is a neighbour before it is made one."""
    a, b = network.hosts
    with subprocess.Popen(a.command([sys.executable, "-c", PESTER, b.address])) as pest:
        try:
            for _ in range(30):
                b.renew()
        finally:
            pest.kill()
    assert output(b, "hostname") == "vm-b"
    assert output(b, "ip", "neigh", "show", a.address).endswith("PERMANENT")


@needs_namespaces
def test_exit_codes_and_signals_are_those_of_the_command(network: Network) -> None:
    host = network.hosts[0]
    assert subprocess.run(host.command(["sh", "-c", "exit 7"])).returncode == 7
    assert subprocess.run(host.command(["sh", "-c", "kill -TERM $$"])).returncode == -15
    missing = subprocess.run(host.command(["no-such-command"]), stderr=subprocess.DEVNULL)
    assert missing.returncode == 127


@needs_namespaces
def test_two_networks_have_their_own_numbers_and_do_not_meet() -> None:
    with Network(["vm-a"]) as one, Network(["vm-a"]) as other:
        assert one.number != other.number
        assert one.hosts[0].address != other.hosts[0].address
        assert connect(one.hosts[0], other.hosts[0].address) == "ENETUNREACH"


@needs_namespaces
def test_hosts_of_linked_networks_reach_each_other_and_those_of_no_others() -> None:
    with Network(["vm-a"]) as one, Network(["vm-a", "vm-b"]) as two, Network(["vm-a"]) as three:
        netns.link(one.number, two.number)
        netns.link(one.number, two.number)  # as an owner does that inherits them
        there = two.hosts[1]
        assert connect(one.hosts[0], there.address) == REACHED
        assert connect(there, one.hosts[0].address) == REACHED
        assert connect(three.hosts[0], there.address) == "ENETUNREACH"
        netns.link(three.number, one.number)
        assert connect(three.hosts[0], one.hosts[0].address) == REACHED
        assert connect(three.hosts[0], there.address) == "ENETUNREACH", "links lead no further"
        there.renew()
        assert connect(one.hosts[0], there.address) == REACHED
        there.cut()
        assert connect(one.hosts[0], there.address) == "silence", "as in a cloud's network"


@needs_namespaces
def test_a_network_goes_with_its_links_and_another_takes_its_number() -> None:
    with Network(["vm-a"]) as one:
        with Network(["vm-a"]) as two:
            netns.link(one.number, two.number)
            gone = two.hosts[0].address
        assert connect(one.hosts[0], gone) == "ENETUNREACH"
        with Network(["vm-a"]) as again:
            netns.link(again.number, one.number)
            assert connect(one.hosts[0], again.hosts[0].address) == REACHED


CRASH = """
import os, subprocess
from launcher.emulator.vms.netns import Network
network = Network(["vm-a"])
host = network.hosts[0]
inside = subprocess.Popen(host.command(["sleep", "600"]), stdout=subprocess.DEVNULL)
while inside.pid not in host.processes():
    pass
print(network.number, inside.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@needs_namespaces
def test_what_a_killed_owner_left_is_removed_by_the_next(network: Network) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    number, left = map(int, crashed.stdout.split())
    assert names_of(number) and lives(left)
    netns.collect()
    assert names_of(number) == set()
    assert not lives(left)
    assert names_of(network.number), "a living owner's network stays"


@needs_namespaces
def test_a_network_that_cannot_be_made_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = netns.names()
    with pytest.raises(OSError, match="254 hosts do not fit"):
        Network(["vm"] * 254)
    # Once the switch is there, nothing can be written for the host.
    (tmp_path / "file").touch()
    monkeypatch.setattr(netns, "FILES", tmp_path / "file" / "folder")
    with pytest.raises(NotADirectoryError):
        Network(["vm-a"])
    assert abandoned(netns.names() - before) == set()


def test_without_a_tool_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(commands, "SYSTEM_PATH", "/nowhere")
    assert netns.missing() == "network namespaces need the command ip: apt-get install iproute2"
    with pytest.raises(OSError, match="apt-get install iproute2"):
        Network(["vm-a"])


def test_without_root_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert netns.missing() == "network namespaces need root: run this as root"
