"""Agents on VMs that a test can do anything to: network namespaces, or plain processes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher.emulator.vms.address import LoopbackAddress
from launcher.emulator.vms.netns import Host, Network
from launcher.emulator.vms.processes import signal_session
from tests.chaos.entry import SITE, Entry
from tests.processes import children
from trainer.protocol.authority import new_secret
from trainer.protocol.credentials import fingerprint
from trainer.protocol.nursery import WORKER
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import AUDIT, ENV_ADDRESS, ENV_RUN_DIR, ENV_SLOTS, ENV_TOKEN

ROOT = Path(__file__).parents[2]
RECHECK_SECONDS = 0.01


class Vm:
    """One VM: its agent, and what a test does to it.

    Args:
        name: the replica's.
        address: its own.
        host: its namespace; None for a VM that is just processes.
        env: for the agent.
        folder: of the run; where the agent's output goes, too.
        fresh: whether its agents start their nurseries themselves.
    """

    def __init__(
        self,
        name: str,
        address: str,
        host: Host | None,
        env: dict[str, str],
        folder: Path,
        fresh: bool,
    ) -> None:
        self.name = name
        self.address = address
        self._host = host
        self.environment = env
        self._fresh = fresh
        self._log = folder / f"{name}.log"
        self._audit = folder / "run" / AUDIT
        self.agent: Entry | None = None
        self.lost = False

    def start(self) -> None:
        """A new VM under this name; what is left of the one before is gone."""
        self.kill()
        argv = [sys.executable, "-m", "trainer.agent"]
        if self._host:
            self._host.renew()
            argv = self._host.command(argv)
        self.agent = Entry(argv, self.environment, self._log, nursery=not self._fresh)

    def kill(self) -> None:
        """Everything in the VM dies at once; the network tells its peers."""
        if self.agent is None:
            return
        while self.signal(signal.SIGKILL):
            time.sleep(RECHECK_SECONDS)
        self.agent.wait()
        self.agent = None
        self.lost = False

    def lose(self) -> None:
        """The VM is gone, and nobody is told."""
        if self._host:
            self._host.cut()
            self.kill()
        else:
            self.freeze()
            self.lost = True

    def cut(self) -> None:
        """The VM lives, but nothing comes in or goes out; network namespaces only."""
        assert self._host, "only a network namespace has a link"
        self._host.cut()

    def heal(self) -> None:
        """The link works again."""
        assert self._host, "only a network namespace has a link"
        self._host.heal()

    def freeze(self) -> None:
        """Everything in the VM is stopped, as by a hypervisor."""
        if self._host:
            self._host.freeze()
        else:
            self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        if self._host:
            self._host.thaw()
        else:
            self.signal(signal.SIGCONT)

    def notify(self) -> None:
        """Tells the agent that the VM will be taken away."""
        self.signal_agent(signal.SIGTERM)

    def signal_agent(self, number: int) -> None:
        """Sends a signal to the agent alone, if there is one."""
        if self.agent:
            self.agent.send_signal(number)

    def signal(self, number: int) -> int:
        """Sends a signal to everything in the VM; returns how many processes it found."""
        assert self.agent
        found = self._host.signal(number) if self._host else 0
        return found + signal_session(self.agent.pid, number)

    def workers(self) -> list[int]:
        """The process ids of its workers, the active one first: the last that contributed."""
        if self.agent is None:
            return []
        forked = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children")
        try:
            found = [one for one in map(int, forked.read_text().split()) if is_worker(one)]
        except OSError:
            return []
        return sorted(found, key=self._idle)

    def coordinators(self) -> list[int]:
        """The process ids of its coordinators: the one that leads, if one does, was first."""
        if self.agent is None:
            return []
        return [one.pid for one in children(self.agent.pid, "trainer.coordinator", recursive=True)]

    def _idle(self, worker: int) -> tuple[float, int]:
        """Sorts first who contributed last; then who was started first."""
        contributed = 0.0
        with suppress(OSError):  # it has gone
            for descriptor in Path(f"/proc/{worker}/fd").iterdir():
                if descriptor.resolve().parent == self._audit:
                    contributed = descriptor.stat().st_mtime
        return -contributed, worker

    def kill_coordinator(self) -> None:
        """The process that leads crashes; its agent and its workers live."""
        os.kill(self.coordinators()[0], signal.SIGKILL)

    def cut_store(self) -> None:
        """The VM cannot reach the run directory."""
        Path(self.environment["CHAOS_CUT"]).touch()

    def heal_store(self) -> None:
        """It can again."""
        Path(self.environment["CHAOS_CUT"]).unlink()

    def signal_worker(self, number: int) -> int:
        """Sends a signal to the active worker alone. Returns its process id."""
        worker = self.workers()[0]
        os.kill(worker, number)
        return worker

    @property
    def log(self) -> str:
        """What its agents and workers have printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class Cluster:
    """The VMs of one run, and its run directory. Nothing is left when it is closed.

    Args:
        kind: "netns" or "process".
        folder: for the run directory and the VMs' output.
        vms: how many VMs there can be.
        expected: how many of them the run begins with.
        settings: of the run, see trainer.agent.settings.
        clocks: by how many seconds the VMs' clocks are off; none is by default.
        fresh: see Vm.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        vms: int,
        expected: int,
        settings: dict[str, Any],
        clocks: Sequence[float] = (),
        fresh: bool = False,
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.run_dir = RunDirectory(str(folder / "run"))
        self._network: Network | None = None
        self._claims: list[LoopbackAddress] = []
        token = new_secret()
        run = {"id": folder.name, "settings": settings, "authority_sha256": fingerprint(token)}
        made = {"created": time.time(), "by": "chaos", **formats.RUN.stamp()}
        self.run_dir.create_json("run.json", {**run, **made})
        names = ["workerpool0-0", *(f"workerpool1-{index}" for index in range(vms - 1))]
        hosts: Sequence[Host | None] = [None] * vms
        if kind == "netns":
            self._network = Network([f"chaos-{name}" for name in names])
            hosts = self._network.hosts
        else:
            self._claims = [LoopbackAddress() for _ in names]
        cluster = {"workerpool0": names[:1], "workerpool1": names[1:expected]}
        self.vms: dict[str, Vm] = {}
        for index, (name, host) in enumerate(zip(names, hosts, strict=True)):
            address = host.address if host else self._claims[index].address
            pool, _, number = name.rpartition("-")
            spec = {"cluster": cluster, "task": {"type": pool, "index": int(number)}}
            env = {
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{SITE}",
                "CHAOS_CUT": str(folder / f"{name}.cut"),
                "CHAOS_CLOCK": str(clocks[index] if clocks else 0),
                "OMP_NUM_THREADS": "1",
                ENV_RUN_DIR: self.run_dir.url,
                ENV_TOKEN: token,
                ENV_ADDRESS: address,
                ENV_SLOTS: "1",
                "CLUSTER_SPEC": json.dumps(spec),
                "GCE_METADATA_HOST": "127.0.0.1:1",  # nobody listens there
            }
            self.vms[name] = Vm(name, address, host, env, folder, fresh)

    def processes(self) -> list[int]:
        """Every living process of this run, wherever it is."""
        mark = f"{ENV_RUN_DIR}={self.run_dir.url}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()  # empty for a dead one
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Kills whatever still runs, and gives the addresses back."""
        for vm in self.vms.values():
            vm.kill()
        if self._network:
            self._network.close()
        for claim in self._claims:
            claim.release()


def is_worker(pid: int) -> bool:
    """Whether a process of an agent is a worker, and neither the coordinator nor the nursery."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == WORKER
    except OSError:
        return False
