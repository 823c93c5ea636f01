"""Where the neighbours are: another user's process, another machine; and what they can reach."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from launcher.emulator.vms import netns
from tests.launcher.emulator.running import Emulator, pool

Address = tuple[str, int]

IMAGE = os.environ.get("SWELL_TEST_IMAGE", "")
NOBODY = 65534
KINDS = [
    "process",
    pytest.param(
        "netns", marks=pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing()))
    ),
    pytest.param(
        "container",
        marks=pytest.mark.skipif(
            not IMAGE, reason="no image to test: make test-container builds one"
        ),
    ),
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
with_machines = pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing()))

# Says which of the addresses in its argument answer to a connection.
KNOCK = """
import json, socket, sys
def answers(address):
    try:
        socket.create_connection(tuple(address), 2).close()
    except OSError:
        return False
    return True
print(json.dumps([answers(one) for one in json.loads(sys.argv[1])]))
"""


def running_job(emulator: Emulator, *scripts: str, **env: str) -> str:
    """Returns a job whose VMs run: each a shell script, and then nothing more."""
    variables = [{"name": name, "value": value} for name, value in env.items()]
    image: dict[str, Any] = {"imageUri": IMAGE} if IMAGE else {}
    pools = [
        pool(f"{script}\necho up; exec sleep 1000", env=list(variables), **image)
        for script in scripts or [""]
    ]
    job = emulator.create(*pools)
    for index in range(len(pools)):
        emulator.until_output(job, f"workerpool{index}-0", "up")
    return job


def listeners(emulator: Emulator) -> list[Address]:
    """Every address at which an emulator listens."""
    return sorted(
        (one.laddr.ip, one.laddr.port)
        for one in psutil.Process(emulator.process.pid).net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    )


def exchange(address: Address, method: str, path: str, headers: Iterable[str] = ()) -> str:
    """Sends a request without a body, as anybody could write it. Returns the answer, or why not."""
    host = f"{address[0]}:{address[1]}"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    try:
        with socket.create_connection(address, 10) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    except OSError as error:
        return type(error).__name__


def as_another_user(act: Callable[[], str]) -> str:
    """Does something as a user who is neither this one nor root. Returns what that returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, act().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


class AnotherMachine:
    """A machine with a cable to this one, which is its way to everywhere, 127.0.0.1 included.

    This one is told to take such packets (route_localnet), as some are for their containers' sake.
    """

    def __init__(self, number: int) -> None:
        self.name = f"neighbour{number}"
        here, there = f"203.0.113.{4 * number + 1}", f"203.0.113.{4 * number + 2}"
        self.lines = [
            f"ip link add {self.name} type veth peer name eth0 netns {self.name}",
            f"ip addr add {here}/30 dev {self.name}",
            f"ip link set {self.name} up",
            f"ip -n {self.name} addr add {there}/30 dev eth0",
            f"ip -n {self.name} link set eth0 up",
            f"ip -n {self.name} route add default via {here}",
            f"ip -n {self.name} route add 127.0.0.0/8 via {here} src {there}",
            f"ip netns exec {self.name} sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
            f"sysctl -qw net.ipv4.conf.{self.name}.route_localnet=1",
        ]

    def claim(self) -> bool:
        """Makes its namespace, unless another test has it."""
        made = subprocess.run(["ip", "netns", "add", self.name], capture_output=True)
        return made.returncode == 0

    def reaches(self, addresses: Sequence[Address]) -> list[bool]:
        """Which of the addresses answer to it."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-I", "-S", "-c", KNOCK]
        said = subprocess.run(
            [*command, json.dumps(addresses)], check=True, capture_output=True, text=True
        )
        answers: list[bool] = json.loads(said.stdout)
        return answers


@contextmanager
def another_machine() -> Iterator[AnotherMachine]:
    """A machine beside this one, for the length of the block."""
    machine = next(filter(AnotherMachine.claim, map(AnotherMachine, range(63))))
    try:
        for line in machine.lines:
            subprocess.run(line.split(), check=True, capture_output=True)
        yield machine
    finally:
        subprocess.run(["ip", "netns", "del", machine.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", machine.name], check=False, capture_output=True)


@contextmanager
def open_door(address: str) -> Iterator[Address]:
    """A port of this address that is open to everybody who gets there."""
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()
