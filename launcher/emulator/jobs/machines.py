"""The VMs of one job: where each is, what it runs, and in which environment."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.routing import Route

from launcher.emulator.listener import Listener
from launcher.emulator.logs import ReplicaLog
from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import Json, Pool
from launcher.emulator.storage.server import Storage
from launcher.emulator.token import Token
from launcher.emulator.vms.cluster_spec import cluster_spec, hostname
from launcher.emulator.vms.environment import (
    base_environment,
    container_environment,
    expand,
    image_environment,
)
from launcher.emulator.vms.install import install_command
from launcher.emulator.vms.interpreter import Interpreter
from launcher.emulator.vms.metadata import Identity, Metadata, numeric_project
from launcher.emulator.vms.places import Guest, Place, Site, open_site
from launcher.emulator.vms.program import ENTRY_POINT, Program
from launcher.emulator.vms.vm import VM, ExitCallback
from launcher.job.machines import MACHINES
from trainer.protocol.secretmanager import ENV_ENDPOINT
from trainer.rundir.names import ENV_ADDRESS, ENV_SCRATCH, ENV_SLOTS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folders:
    """Where an emulator keeps what its VMs leave behind.

    Args:
        logs: what replicas print.
        installed: what Python packages are installed into; goes with the job.
    """

    logs: Path
    installed: Path


@dataclass(frozen=True)
class VmOptions:
    """What an emulator's VMs are.

    Args:
        kind: see launcher.emulator.vms.places.
        memory: the most that one may use, in bytes; None for its machine's own.
        storage: what VMs that are not on this machine's own network find at gs://; the
            others find that of ``STORAGE_EMULATOR_HOST``.
        spec_forms: in which forms CLUSTER_SPEC is written.
        token: what the access tokens of VMs are made from.
        routes: what a VM can ask at its metadata server's port besides, given its access token
            and the values of its job's variables.
    """

    kind: str = "process"
    memory: int | None = None
    storage: Storage | None = None
    spec_forms: frozenset[str] = frozenset()
    token: Token = field(default_factory=Token.new)
    routes: Callable[[str, frozenset[str]], Sequence[Route]] = lambda bearer, named: ()


class Machines:
    """A job's VMs, by replica. A replica's VM is made once, and started anew when it comes back.

    Args:
        record: the CustomJob in the normal form, with ``name``.
        options: what the VMs are.
        folders: where logs and what VMs install for themselves are kept.

    Attributes:
        types: the machine type of each replica, in the job's order.
    """

    def __init__(self, record: Json, options: VmOptions, folders: Folders) -> None:
        self._name: str = record["name"]
        _, self._project, _, self._region, _, self._id = self._name.split("/")
        self._output = customjobs.output_directory(record)
        self._pools = customjobs.pools(record)
        self._pool_of = {name: pool for pool in self._pools for name in pool.replica_names()}
        self.types: Mapping[str, str] = {name: pool.machine for name, pool in self._pool_of.items()}
        self._options = options
        self._bearer = options.token.of_job(self._name)
        named = frozenset(value for pool in self._pools for _, value in pool.env)
        self._routes = options.routes(self._bearer, named)
        self._logs = folders.logs
        self._installed = folders.installed / self._id
        self._site: Site | None = None
        self._storage: Listener | None = None
        self._vms: dict[str, VM] = {}

    def get(self, replica: str) -> VM | None:
        """The replica's VM, if it was made."""
        return self._vms.get(replica)

    def __getitem__(self, replica: str) -> VM:
        return self._vms[replica]

    def make(self, replica: str, on_exit: ExitCallback) -> None:
        """Makes the replica's VM, not yet started, unless it was made before.

        Raises OSError when it cannot be had, FileNotFoundError when its image is not here.
        """
        if replica not in self._vms:
            self._vms[replica] = self._vm(replica, self._place(replica), on_exit)

    async def close(self, grace: float, hurry: asyncio.Event) -> None:
        """Shuts all VMs down for good, and gives back what they had.

        Args:
            grace: seconds from SIGTERM to SIGKILL.
            hurry: once it is set, nothing is waited for.
        """
        stopping = (vm.stop(grace, hurry) for vm in self._vms.values())
        for problem in await asyncio.gather(*stopping, return_exceptions=True):
            if problem:
                log.error("a VM of %s was not shut down: %r", self._name, problem)
        if self._storage:
            await self._storage.stop()
        if self._site:
            try:
                await asyncio.to_thread(self._site.close)
            except OSError as problem:
                log.error("the VMs of %s left something: %s", self._name, problem)
        await asyncio.to_thread(shutil.rmtree, self._installed, ignore_errors=True)

    def _place(self, replica: str) -> Place:
        if self._site is None:
            guests = {name: self._guest(name, pool) for name, pool in self._pool_of.items()}
            self._site = open_site(self._options.kind, guests, self._logs.parent)
            if (gateway := self._site.gateway) and self._options.storage:
                # These VMs do not reach the one on this machine's loopback.
                storage = self._options.storage.app()
                self._storage = Listener(storage, gateway, device=self._site.device)
                self._storage.start()
        return self._site.place(replica)

    def _guest(self, replica: str, pool: Pool) -> Guest:
        machine = MACHINES.get(pool.machine)
        memory = self._options.memory or (machine.memory_gb * 2**30 if machine else None)
        return Guest(hostname(self._id, replica), pool.image, memory)

    def _vm(self, replica: str, place: Place, on_exit: ExitCallback) -> VM:
        host = hostname(self._id, replica)
        identity = Identity(self._project, self._region, host, place.address)
        metadata = Metadata(identity, self._bearer, self._routes)
        listener = Listener(metadata.app(), place.metadata, device=place.device)
        folder = self._installed / replica
        interpreter = None if self._options.kind == "container" else Interpreter(folder / "python")
        environment = self._environment(replica, place, listener.authority, interpreter)
        program = self._program(replica, environment, interpreter)
        output = ReplicaLog(self._logs, self._id, replica)
        return VM(program, metadata, listener, place, output, on_exit)

    def _environment(
        self, replica: str, place: Place, metadata: str, interpreter: Interpreter | None
    ) -> dict[str, str]:
        """The variables of the replica's program.

        Args:
            replica: which.
            place: where it is.
            metadata: host and port of its metadata server.
            interpreter: its own, where it has no image.
        """
        pool = self._pool_of[replica]
        service = {
            "HOSTNAME": hostname(self._id, replica),
            "CLUSTER_SPEC": cluster_spec(self._id, self._pools, replica, self._options.spec_forms),
            "CLOUD_ML_JOB_ID": self._id,
            "CLOUD_ML_PROJECT_ID": numeric_project(self._project),
            "GCE_METADATA_HOST": metadata,
            "GCE_METADATA_IP": metadata,
            ENV_ENDPOINT: f"http://{metadata}",
            ENV_ADDRESS: place.address,
        }
        if self._output:
            service["AIP_MODEL_DIR"] = f"{self._output}/model/"
            service["AIP_CHECKPOINT_DIR"] = f"{self._output}/checkpoints/"
            service["AIP_TENSORBOARD_LOG_DIR"] = f"{self._output}/logs/"
        workers = sum(one.slots * len(one.replica_names()) for one in self._pools)
        if interpreter:
            base = base_environment(interpreter, workers)
            base[ENV_SCRATCH] = str(self._installed / replica / "scratch")
        else:
            base = image_environment(workers)
        if self._storage:
            base["STORAGE_EMULATOR_HOST"] = f"http://{self._storage.authority}"
        base[ENV_SLOTS] = str(pool.slots)
        return container_environment(base, pool.env, service)

    def _program(
        self, replica: str, environment: dict[str, str], interpreter: Interpreter | None
    ) -> Program:
        pool = self._pool_of[replica]
        command = tuple(expand(part, environment) for part in pool.command)
        args = tuple(expand(part, environment) for part in pool.args)
        python = interpreter.path if interpreter else Path(sys.executable)
        if pool.package:
            folder = self._installed / replica / "packages"
            command, args = tuple(install_command(python, folder, pool.package, args)), ()
        elif interpreter and not command:
            command = (str(python), *ENTRY_POINT)
        return Program(pool.image, command, args, environment)
