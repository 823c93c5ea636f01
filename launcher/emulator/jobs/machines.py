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
from launcher.emulator.vms.life import Life, Output, kill_all
from launcher.emulator.vms.links import Links
from launcher.emulator.vms.metadata import Identity, Metadata, numeric_project
from launcher.emulator.vms.places import Guest, Place, Site, open_site
from launcher.emulator.vms.program import ENTRY_POINT, Program
from launcher.emulator.vms.vm import VM, ExitCallback, Keeping
from launcher.job.controllerjob import ENV_EMULATOR, ENV_EMULATOR_TOKEN
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
        vms: records of what runs; they go with the job, too.
    """

    logs: Path
    installed: Path
    vms: Path


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
            and its CustomJob.
        held: open files of the emulator that its VMs need to be there again, should it be killed.
        links: what lets the VMs of several jobs reach each other.
        tells: whether their metadata servers say if they are to be preempted.
    """

    kind: str = "process"
    memory: int | None = None
    storage: Storage | None = None
    spec_forms: frozenset[str] = frozenset()
    token: Token = field(default_factory=Token.new)
    routes: Callable[[str, Json], Sequence[Route]] = lambda bearer, record: ()
    held: Sequence[int] = ()
    links: Links = field(default_factory=Links)
    tells: bool = True


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
        self._routes = options.routes(self._bearer, record)
        self._is_controller = customjobs.is_controller(record)
        self._logs = folders.logs
        self._installed = folders.installed / self._id
        self._records = folders.vms / self._id
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

    def kept(self) -> Json:
        """Returns what ``adopt`` needs to find the VMs again, as JSON."""
        return {
            "network": self._site.number if self._site else None,
            "storage": self._storage.port if self._storage else 0,
            "vms": {name: (vm.address, vm.metadata_port) for name, vm in self._vms.items()},
        }

    def adopt(self, kept: Json, on_exit: Callable[[str], ExitCallback]) -> dict[str, int]:
        """Makes the VMs that an emulator had which was killed, and goes on with those that live.

        Args:
            kept: what it had.
            on_exit: returns what to call for a replica; see VM. It is called for VMs that have
                ended meanwhile, too.

        Returns the newest incarnation of each that was started. Raises OSError when they cannot be
        had back.
        """
        lives = {name: Life.find(self._records / name) for name in kept["vms"]}
        living = {name for name, life in lives.items() if life and life.living}
        if living and kept["network"] is not None:
            self._open_site(kept["network"], kept["storage"])
        for name, (address, port) in kept["vms"].items():
            place = self._place(name, address if name in living else None)
            vm = self._vm(name, place, on_exit(name), port if name in living else 0)
            self._vms[name] = vm
            if life := lives[name]:
                vm.adopt(life)
        return {name: life.incarnation for name, life in lives.items() if life}

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
        await asyncio.to_thread(kill_all, self._records)  # those that were never had back
        if self._storage:
            await self._storage.stop()
        if self._site:
            self._options.links.remove(self._site.number)
            try:
                await asyncio.to_thread(self._site.close)
            except OSError as problem:
                log.error("the VMs of %s left something: %s", self._name, problem)
        for folder in (self._installed, self._records):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _place(self, replica: str, inherit: str | None = None) -> Place:
        return (self._site or self._open_site()).place(replica, inherit)

    def _open_site(self, inherit: int | None = None, port: int = 0) -> Site:
        guests = {name: self._guest(name, pool) for name, pool in self._pool_of.items()}
        site = open_site(self._options.kind, guests, self._logs.parent, inherit)
        self._site = site
        self._options.links.add(site.number)
        if site.gateway and self._options.storage:
            # These VMs do not reach the one on this machine's loopback.
            app = self._options.storage.app()
            self._storage = Listener(app, site.gateway, port, site.device)
            self._storage.start()
        return site

    def _held(self) -> list[int]:
        """The ports that are in the VMs' environments."""
        own = [self._storage.reserved] if self._storage else []
        return [*self._options.held, *own]

    def _guest(self, replica: str, pool: Pool) -> Guest:
        machine = MACHINES.get(pool.machine)
        memory = self._options.memory or (machine.memory_gb * 2**30 if machine else None)
        return Guest(hostname(self._id, replica), pool.image, memory)

    def _vm(self, replica: str, place: Place, on_exit: ExitCallback, port: int = 0) -> VM:
        host = hostname(self._id, replica)
        identity = Identity(self._project, self._region, host, place.address)
        metadata = Metadata(identity, self._bearer, self._routes, self._options.tells)
        listener = Listener(metadata.app(), place.metadata, port, place.device)
        folder = self._installed / replica
        interpreter = None if self._options.kind == "container" else Interpreter(folder / "python")
        environment = self._environment(replica, place, listener.authority, interpreter)
        program = self._program(replica, environment, interpreter)
        output = Output(self._logs, self._id, replica)
        keeping = Keeping(self._records / replica, output, self._held)
        return VM(program, metadata, listener, place, keeping, on_exit)

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
        if self._is_controller:
            service |= {ENV_EMULATOR: f"http://{metadata}", ENV_EMULATOR_TOKEN: self._bearer}
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
