"""The systems that recovery.py compares, each on the same hosts with the same model.

Every system is told where to run, who joins and who is about to leave. What breaks without
notice, the benchmark breaks itself.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from agents import Agents
from launcher.emulator.vms.netns import Host, Network
from trainer.protocol.lease import newest_claim
from trainer.rundir.events import read_events

JOBS = Path(__file__).parent / "jobs"
DDP = JOBS / "ddp_elastic.py"
TRAINER = JOBS / "trainer_elastic.py"
BIN = Path(sys.executable).parent
EVENTS_LATE = 5.0  # seconds within which an event has been written


class System(Protocol):
    """What is measured."""

    def start(self, hosts: Sequence[Host]) -> None:
        """Begins to train on these hosts."""

    def join(self, host: Host) -> None:
        """The host has become available."""

    def drain(self, host: Host) -> None:
        """The host has been given notice."""

    def lose_leader(self) -> None:
        """What leads is gone with its host, and nobody is told."""

    def crash_leader(self) -> None:
        """The process that leads is killed."""

    def leaderless(self) -> float | None:
        """How many seconds passed until there was another leader; None if there is none."""

    def ended(self) -> bool:
        """Whether all that would start workers again has exited."""

    def close(self) -> None:
        """Ends what runs outside the hosts."""


class Swell:
    """Agents, as they run on VMs, with a warm standby beside each worker."""

    SETTINGS: Mapping[str, Any] = {"program": {"task": "jobs.fit:Mlp"}}

    def __init__(self, network: Network, folder: Path, env: Mapping[str, str]) -> None:
        self._hosts = network.hosts
        settings = {
            **self.SETTINGS,
            "max_workers": len(self._hosts),
            "start_wait": 1.0,
            "checkpoint": {"every": 3600.0},
        }
        addresses = [host.address for host in self._hosts]
        self._agents = Agents(folder, addresses, settings, env)
        self._lost_at = float("inf")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            self.join(host)

    def join(self, host: Host) -> None:
        index = self._hosts.index(host)
        self._processes[host.name] = self._agents.start(index, host.command)

    def drain(self, host: Host) -> None:
        self._processes[host.name].send_signal(signal.SIGTERM)

    def lose_leader(self) -> None:
        host, _ = self._leader()
        self._lost_at = time.time()
        host.cut()
        host.kill()

    def crash_leader(self) -> None:
        _, coordinator = self._leader()
        self._lost_at = time.time()
        coordinator.kill()

    def leaderless(self) -> float | None:
        deadline = time.monotonic() + EVENTS_LATE
        while time.monotonic() < deadline:
            for event in read_events(self._agents.run_dir):
                if event["event"] == "leader_changed" and event["time"] > self._lost_at:
                    return float(event["time"]) - self._lost_at
            time.sleep(EVENTS_LATE / 10)
        return None

    def _leader(self) -> tuple[Host, psutil.Process]:
        claim = newest_claim(self._agents.run_dir)
        assert claim is not None
        host = next(one for one in self._hosts if one.address == claim.target.split(":")[0])
        inside = [psutil.Process(pid) for pid in host.processes()]
        hosted = [one for one in inside if "trainer.coordinator" in one.cmdline()]
        return host, min(hosted, key=lambda one: one.create_time())  # the other one stands by

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self._processes.values())

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


class SwellTorchrun(Swell):
    """The same agents with the script that torchrun runs, started anew in each world."""

    SETTINGS: Mapping[str, Any] = {
        "program": {"script": str(DDP)},
        "torchrun": {"sizes": [1, 2, 3], "max_restarts": 100},
    }

    def __init__(self, network: Network, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(network, folder, {**env, "MLP_SNAPSHOT": str(folder / "snapshot")})


class SwellTrainer(SwellTorchrun):
    """The same with transformers' Trainer, which is imported beforehand."""

    SETTINGS: Mapping[str, Any] = {
        "program": {"script": str(TRAINER)},
        "torchrun": {
            "sizes": [1, 2, 3],
            "max_restarts": 100,
            "preload": ["transformers.trainer"],
        },
    }


# Stands in for ssh: the last argument is run by a shell in the namespace of the host that is
# named before it. The driver's interface is not called as the hosts' own.
SSH = """#!/bin/sh
for word; do host=$command; command=$word; done
command=$(printf %s "$command" | sed 's/HOROVOD_GLOO_IFACE={interface}/HOROVOD_GLOO_IFACE=eth0/')
case $host in
{cases}
esac
"""


class Horovodrun:
    """horovodrun's own elastic driver, unmodified, on this machine.

    Its discovery script prints a file. It reaches the hosts through a program called ssh,
    which enters a namespace. (A real ssh would not tell the driver of processes that died on a
    host that cannot be reached.)
    """

    def __init__(self, network: Network, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._interface = network.name
        self._listed: list[Host] = []
        self._first = network.hosts[0]
        self._process: subprocess.Popen[bytes] | None = None
        tools = folder / "bin"
        tools.mkdir()
        cases = "\n".join(
            f'{host.address}) exec {shlex.join(host.command(["sh", "-c"]))} "$command" ;;'
            for host in network.hosts
        )
        _write_program(tools / "ssh", SSH.format(interface=network.name, cases=cases))
        _write_program(tools / "discover", f"#!/bin/sh\ncat {shlex.quote(str(folder / 'hosts'))}\n")
        self._path = f"{tools}:{BIN}:{os.environ['PATH']}"

    def start(self, hosts: Sequence[Host]) -> None:
        self._list([*hosts])
        with (self._folder / "driver.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(BIN / "horovodrun"),
                    *("-np", str(len(hosts)), "--min-np", "1", "--max-np", "3", "--gloo"),
                    *("--host-discovery-script", str(self._folder / "bin" / "discover")),
                    *("--network-interface", self._interface),
                    *(sys.executable, str(JOBS / "horovod_elastic.py")),
                ],
                env={**os.environ, **self._env, "PATH": self._path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def join(self, host: Host) -> None:
        self._list([*self._listed, host])

    def drain(self, host: Host) -> None:
        self._list([one for one in self._listed if one is not host])

    def lose_leader(self) -> None:
        self._first.cut()
        self._first.kill()
        self.crash_leader()

    def crash_leader(self) -> None:
        assert self._process is not None
        self._process.kill()

    def leaderless(self) -> float | None:
        return None

    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def close(self) -> None:
        if self._process is not None:
            _end_session(self._process)

    def _list(self, hosts: list[Host]) -> None:
        self._listed = hosts
        part = self._folder / "hosts.part"
        part.write_text("".join(f"{host.address}:1\n" for host in hosts))
        part.replace(self._folder / "hosts")


class Torchrun:
    """torchrun's elastic agent on every host; the first one's holds the rendezvous' store.

    Its waits are shortened: it goes on 1 s after the last host came, instead of 30 s, and takes
    a host for lost after 3 s without a heartbeat, instead of 15 s.
    """

    SCRIPT = DDP
    ENV: Mapping[str, str] = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def __init__(self, network: Network, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._first = network.hosts[0]
        self._endpoint = f"{self._first.address}:29400"
        self._env = {
            **env,
            **self.ENV,
            "MLP_SNAPSHOT": str(folder / "snapshot"),
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            self.join(host)

    def join(self, host: Host) -> None:
        with (self._folder / f"{host.hostname}.log").open("wb") as log:
            self._processes[host.name] = subprocess.Popen(
                host.command(
                    [
                        str(BIN / "torchrun"),
                        *("--nnodes", "1:3", "--nproc-per-node", "1", "--max-restarts", "100"),
                        *("--rdzv-backend", "c10d", "--rdzv-endpoint", self._endpoint),
                        *("--rdzv-id", "recovery", "--local-addr", host.address),
                        *("--rdzv-conf", "last_call_timeout=1,keep_alive_interval=1"),
                        str(self.SCRIPT),
                    ]
                ),
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def drain(self, host: Host) -> None:
        self._processes[host.name].send_signal(signal.SIGTERM)

    def lose_leader(self) -> None:
        self._first.cut()
        self._first.kill()

    def crash_leader(self) -> None:
        self._processes[self._first.name].kill()

    def leaderless(self) -> float | None:
        return None

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self._processes.values())

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


class TorchrunTrainer(Torchrun):
    """The same with transformers' Trainer."""

    SCRIPT = TRAINER


class TorchrunByDefault(Torchrun):
    """With the store shared between agents and workers, as torchrun does unless told not to."""

    ENV: Mapping[str, str] = {}


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and those that it started, except on the hosts."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
