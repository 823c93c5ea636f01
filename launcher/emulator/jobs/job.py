"""One running CustomJob: carries out what its lifecycle commands, on VMs."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from starlette.routing import Route

from launcher.emulator.jobs.lifecycle import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    LIVING,
    NOT_FOUND,
    Command,
    Freeze,
    Kill,
    Lifecycle,
    Notify,
    ReplicaState,
    Rules,
    Start,
    Stop,
    StopAll,
    Survivors,
)
from launcher.emulator.listener import Listener
from launcher.emulator.logs import ReplicaLog, parse_timestamp, timestamp, utc_now
from launcher.emulator.market.exchange import Exchange
from launcher.emulator.market.incidents import Incident, Progress, due, needs_steps
from launcher.emulator.market.market import Bid
from launcher.emulator.market.steps import StepReader
from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import JobState, Json, Pool
from launcher.emulator.storage.server import Storage
from launcher.emulator.vms.cluster_spec import cluster_spec, hostname
from launcher.emulator.vms.environment import (
    base_environment,
    container_environment,
    expand,
    image_environment,
)
from launcher.emulator.vms.install import install_command
from launcher.emulator.vms.metadata import Identity, Metadata, numeric_project
from launcher.emulator.vms.places import Guest, Place, Site, open_site
from launcher.emulator.vms.program import Program
from launcher.emulator.vms.vm import ProcessVM
from launcher.job.machines import MACHINES
from trainer.protocol.secretmanager import ENV_ENDPOINT
from trainer.rundir.names import ENV_ADDRESS, ENV_SCRATCH, ENV_SLOTS

LONGEST_TIMER = 30 * 86_400.0  # seconds
STOP_GRACE = 3.0  # seconds between SIGTERM and SIGKILL when a job ends
MARKET_POLL = 0.25  # seconds

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
class Vms:
    """What an emulator's VMs are.

    Args:
        kind: see launcher.emulator.vms.places.
        memory: the most that one may use, in bytes; None for its machine's own.
        storage: what VMs that are not on this machine's own network find at gs://; the
            others find that of ``STORAGE_EMULATOR_HOST``.
    """

    kind: str = "process"
    memory: int | None = None
    storage: Storage | None = None


class Job:
    """A job from its creation until nothing of it runs any more.

    Args:
        record: the CustomJob in the normal form, with ``name``; kept up to date here.
        number: the job's number in the order of creation.
        folders: where logs and what VMs install for themselves are kept.
        exchange: the Spot market, which VMs come from.
        incidents: what befalls this run's VMs on the market file's orders.
        save: called with the record whenever it has changed.
        spec_forms: in which forms CLUSTER_SPEC is written.
        vms: what its VMs are.
        vm_routes: what its VMs can ask at their metadata server's port besides.
    """

    def __init__(
        self,
        record: Json,
        number: int,
        folders: Folders,
        exchange: Exchange,
        incidents: Sequence[Incident],
        save: Callable[[Json], None],
        spec_forms: frozenset[str] = frozenset(),
        vms: Vms | None = None,
        vm_routes: Sequence[Route] = (),
    ) -> None:
        self.record = record
        self._number = number
        self._folders = folders
        self._exchange = exchange
        self._incidents = incidents
        self._progress = exchange.progress(customjobs.output_directory(record) or record["name"])
        self._save = save
        self._what = vms or Vms()
        self._vm_routes = vm_routes
        self._site: Site | None = None
        self._storage: Listener | None = None
        self._spec_forms = spec_forms
        self._scheduling = customjobs.scheduling(record)
        self._pools = customjobs.pools(record)
        self._pool_of = {name: pool for pool in self._pools for name in pool.replica_names()}
        _, self._project, _, self._region, _, self._id = record["name"].split("/")
        self._lifecycle = Lifecycle(
            list(self._pool_of),
            Rules(
                self._region,
                self._scheduling.restart_job_on_worker_restart,
                self._scheduling.disable_retries,
                Survivors(exchange.market.survivors),
            ),
        )
        self._vms: dict[str, ProcessVM] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Begins to run the job."""
        self._publish()
        self._exchange.enter(self._number, self)
        limit = self._scheduling.max_wait
        if limit is not None:
            waited = (utc_now() - parse_timestamp(self.record["createTime"])).total_seconds()
            self._after(limit.total_seconds() - waited, self._expire)

    def cancel(self) -> None:
        """Ends the job because the user wants it; Refused when it has ended."""
        self._do(self._lifecycle.cancel())

    async def close(self, code: int, reason: str) -> None:
        """Kills whatever runs; a job whose end was not decided has failed for ``reason``."""
        self._hurry.set()
        if not self.state.terminal:
            self._do(self._lifecycle.fail(code, reason))
        await self._ended.wait()

    def preempt(self, replica: str, notice: timedelta | None) -> None:
        """Takes a VM away until ``restore``, silently without ``notice``; Refused when it does
        not run."""
        self._do(self._lifecycle.preempt(replica, notice))

    def restore(self, replica: str) -> None:
        """Lets a VM that was taken come back; Refused when none was."""
        self._do(self._lifecycle.restore(replica))

    def bid(self) -> Bid:
        """What the job has and wants of the Spot market."""
        life = self._lifecycle
        state_of = {name: replica.state for name, replica in life.replicas.items()}
        wanted = life.wanted
        return Bid(
            job=self._number,
            region=self._region,
            machines={name: pool.machine for name, pool in self._pool_of.items()},
            limited=self._scheduling.spot or self._scheduling.flex_start,
            takeable=self._scheduling.spot,
            living=tuple(name for name, state in state_of.items() if state in LIVING),
            leaving=tuple(
                name for name, state in state_of.items() if state is ReplicaState.NOTICED
            ),
            wanted=wanted.replicas,
            together=wanted.together,
        )

    @property
    def stranded(self) -> bool:
        """Whether a restart that finds no VM counts; Flex-start waits as long as it was told."""
        waits_on = self._scheduling.flex_start and self.state is JobState.QUEUED
        return self._lifecycle.stranded and not waits_on

    def grant(self, replicas: Sequence[str]) -> None:
        """The Spot market has VMs for these replicas."""
        commands = self._lifecycle.granted(replicas)
        self._publish()
        try:
            for name in replicas:
                if name not in self._vms:
                    self._vms[name] = self._vm(self._pool_of[name], name, self._place(name))
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else INTERNAL
            commands = self._lifecycle.fail(code, f"No VM for a replica: {error}")
        self._do(commands)

    def take(self, replica: str, notice: timedelta | None) -> None:
        """The Spot market takes a VM back, silently without ``notice``."""
        self._do(self._lifecycle.taken(replica, notice))

    def refuse(self) -> None:
        """The Spot market had no VM for a restart."""
        self._do(self._lifecycle.refused())

    @property
    def state(self) -> JobState:
        """The job's state."""
        return self._lifecycle.state

    @property
    def queued(self) -> bool:
        """Whether the job still waits for its first VMs."""
        return self.state is JobState.QUEUED and not self._lifecycle.ending

    def replicas(self) -> list[Json]:
        """What is known of each replica."""
        return [self._shown(name) for name in self._pool_of]

    def has_replica(self, name: str) -> bool:
        """Whether the job has a replica of that name."""
        return name in self._pool_of

    def _shown(self, name: str) -> Json:
        replica = self._lifecycle.replicas[name]
        vm = self._vms.get(name)
        # Who has got a notice is as good as gone.
        state = ReplicaState.PREEMPTED if replica.state is ReplicaState.NOTICED else replica.state
        return {
            "replica": name,
            "state": state.value,
            "address": vm.address if vm else None,
            "restarts": replica.restarts,
            "pid": vm.pid if vm else None,
        }

    def _place(self, name: str) -> Place:
        if self._site is None:
            guests = {name: self._guest(name, pool) for name, pool in self._pool_of.items()}
            self._site = open_site(self._what.kind, guests, self._folders.logs.parent)
            if (gateway := self._site.gateway) and self._what.storage:
                # These VMs do not reach the one on this machine's loopback.
                self._storage = Listener(self._what.storage.app(gateway), gateway)
                self._storage.start()
        return self._site.place(name)

    def _guest(self, name: str, pool: Pool) -> Guest:
        machine = MACHINES.get(pool.machine)
        memory = self._what.memory or (machine.memory_gb * 2**30 if machine else None)
        return Guest(hostname(self._id, name), pool.image, memory)

    def _vm(self, pool: Pool, name: str, place: Place) -> ProcessVM:
        host = hostname(self._id, name)
        identity = Identity(self._project, self._region, host, place.address)
        metadata = Metadata(identity, self._vm_routes)
        listener = Listener(metadata.app(), place.metadata)
        service = {
            "HOSTNAME": host,
            "CLUSTER_SPEC": cluster_spec(self._id, self._pools, name, self._spec_forms),
            "CLOUD_ML_JOB_ID": self._id,
            "CLOUD_ML_PROJECT_ID": numeric_project(self._project),
            "GCE_METADATA_HOST": listener.authority,
            "GCE_METADATA_IP": listener.authority,
            ENV_ENDPOINT: f"http://{listener.authority}",
            ENV_ADDRESS: place.address,
        }
        if output := customjobs.output_directory(self.record):
            service["AIP_MODEL_DIR"] = f"{output}/model/"
            service["AIP_CHECKPOINT_DIR"] = f"{output}/checkpoints/"
            service["AIP_TENSORBOARD_LOG_DIR"] = f"{output}/logs/"
        workers = sum(one.slots * len(one.replica_names()) for one in self._pools)
        images = self._what.kind == "container"
        base = image_environment(workers) if images else base_environment(workers)
        if self._storage:
            base["STORAGE_EMULATOR_HOST"] = f"http://{self._storage.authority}"
        if not images:  # what VMs share otherwise: their disk
            own = self._folders.installed / self._id / name
            base[ENV_SCRATCH] = str(own / "scratch")
        base[ENV_SLOTS] = str(pool.slots)
        environment = container_environment(base, pool.env, service)
        return ProcessVM(
            self._program(pool, name, environment),
            metadata,
            listener,
            place,
            ReplicaLog(self._folders.logs, self._id, name),
            lambda incarnation, code: self._do(self._lifecycle.exited(name, incarnation, code)),
        )

    def _program(self, pool: Pool, name: str, environment: dict[str, str]) -> Program:
        command = tuple(expand(part, environment) for part in pool.command)
        args = tuple(expand(part, environment) for part in pool.args)
        if pool.package:
            folder = self._folders.installed / self._id / name
            command, args = tuple(install_command(folder, pool.package, args)), ()
        return Program(pool.image, command, args, environment)

    def _do(self, commands: Sequence[Command]) -> None:
        self._publish()
        for command in commands:
            self._spawn(self._carry_out(command))
        self._exchange.wake()

    async def _carry_out(self, command: Command) -> None:
        if isinstance(command, Start):
            try:
                await self._vms[command.replica].start(command.incarnation)
            except OSError as error:
                reason = str(error)
                self._do(self._lifecycle.not_started(command.replica, command.incarnation, reason))
            else:
                self._do(self._lifecycle.started(command.replica, command.incarnation))
        elif isinstance(command, Notify):
            self._vms[command.replica].notify()
            self._after(command.notice.total_seconds(), lambda: self._notice_over(command))
        elif isinstance(command, Freeze):
            self._vms[command.replica].freeze()
        elif isinstance(command, Kill):
            await self._vms[command.replica].kill()
        elif isinstance(command, Stop):
            await self._vms[command.replica].shut_down(STOP_GRACE, self._hurry)
        elif isinstance(command, StopAll):
            await self._stop_all()

    def _notice_over(self, notice: Notify) -> None:
        self._do(self._lifecycle.notice_over(notice.replica, notice.incarnation))

    async def _stop_all(self) -> None:
        stopping = (vm.stop(STOP_GRACE, self._hurry) for vm in self._vms.values())
        for problem in await asyncio.gather(*stopping, return_exceptions=True):
            if problem:
                log.error("a VM of %s was not shut down: %r", self.record["name"], problem)
        if self._storage:
            await self._storage.stop()
        if self._site:
            try:
                await asyncio.to_thread(self._site.close)
            except OSError as problem:
                log.error("the VMs of %s left something: %s", self.record["name"], problem)
        for timer in self._timers:
            timer.cancel()
        await asyncio.to_thread(
            shutil.rmtree, self._folders.installed / self._id, ignore_errors=True
        )
        self._do(self._lifecycle.stopped())
        self._exchange.leave(self._number)
        self._ended.set()

    def _publish(self) -> None:
        """Brings the record up to date with the lifecycle."""
        state = self._lifecycle.state
        if self.record.get("state") == state.wire_name:
            return
        now = timestamp(utc_now())
        self.record["state"] = state.wire_name
        self.record["updateTime"] = now
        if state is JobState.RUNNING and "startTime" not in self.record:
            self.record["startTime"] = now
            self._after(self._scheduling.timeout.total_seconds(), self._time_out)
            if self._incidents:
                self._spawn(self._happen())
        if state.terminal:
            self.record["endTime"] = now
            if error := self._lifecycle.error:
                self.record["error"] = {"code": error.code, "message": error.message}
        try:
            self._save(self.record)
        except OSError as problem:  # a full disk must not keep the job's VMs alive
            log.error("%s cannot be saved: %s", self.record["name"], problem)

    async def _happen(self) -> None:
        """Lets the market's incidents happen while the job runs."""
        since, step = self._exchange.now, 0
        steps = StepReader(customjobs.output_directory(self.record))
        while not self._lifecycle.ending and not all(past.over for past in self._progress):
            if needs_steps(self._incidents, self._progress):
                step = await asyncio.to_thread(steps.completed)
            now = self._exchange.now
            for action in due(
                self._incidents, self._progress, now=now, running_since=since, step=step
            ):
                self._act(action.kind, action.incident, now)
            await asyncio.sleep(MARKET_POLL)

    def _act(self, kind: str, number: int, now: float) -> None:
        incident = self._incidents[number]
        replica = self._lifecycle.replicas.get(incident.replica)
        if self._lifecycle.ending:
            return
        past = self._progress[number]
        if kind == "strike":
            starting = replica is not None and replica.state is ReplicaState.STARTING
            if self.state is not JobState.RUNNING or starting:
                return  # for now
            hit = replica is not None and replica.state is ReplicaState.RUNNING
            self._progress[number] = Progress(now, over=incident.back is None or not hit)
            if hit:
                self.preempt(incident.replica, incident.notice)
            else:
                log.warning("the market finds no running %s to take", incident.replica)
        else:
            self._progress[number] = Progress(past.struck, over=True)
            if replica and replica.withheld:
                self.restore(incident.replica)
        self._exchange.save()

    def _time_out(self) -> None:
        limit = int(self._scheduling.timeout.total_seconds())
        self._do(
            self._lifecycle.fail(
                DEADLINE_EXCEEDED, f"The job has run for longer than its timeout of {limit} s."
            )
        )

    def _expire(self) -> None:
        self._do(
            self._lifecycle.expire("No resources were found within the job's max_wait_duration.")
        )

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        # A timer cannot be set further than some weeks ahead on every platform.
        delay = min(max(0.0, seconds), LONGEST_TIMER)
        self._timers.append(asyncio.get_running_loop().call_later(delay, act))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:
            log.exception("%s failed inside the emulator", self.record["name"])
            self._do(self._lifecycle.fail(INTERNAL, f"The emulator failed: {error!r}"))
