"""One running CustomJob: carries out what its lifecycle commands, on VMs."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from pathlib import Path

from launcher.emulator import customjobs
from launcher.emulator.cluster_spec import cluster_spec, hostname
from launcher.emulator.customjobs import JobState, Json, Pool
from launcher.emulator.environment import base_environment, container_environment, expand
from launcher.emulator.lifecycle import (
    AWAY,
    INTERNAL,
    Command,
    Freeze,
    Kill,
    Lifecycle,
    Notify,
    ReplicaState,
    Start,
    StopAll,
)
from launcher.emulator.listener import Listener
from launcher.emulator.logs import ReplicaLog, timestamp, utc_now
from launcher.emulator.market import Incident, Progress, due, needs_steps
from launcher.emulator.metadata import Identity, Metadata, numeric_project
from launcher.emulator.places import Place, Site, open_site
from launcher.emulator.steps import StepReader
from launcher.emulator.vm import ProcessVM
from trainer.rundir import ENV_ADDRESS, ENV_SLOTS

ENTRY_POINT = (sys.executable, "-m", "trainer.agent")  # of our image: the only one known here
STOP_GRACE = 3.0  # seconds between SIGTERM and SIGKILL when a job ends
MARKET_POLL = 0.25  # seconds

log = logging.getLogger(__name__)


class Job:
    """A job from its creation until nothing of it runs any more.

    Args:
        record: the CustomJob in the normal form, with ``name``; kept up to date here.
        root: the folder of the replicas' logs.
        market: what happens to VMs.
        progress: what has happened of the market already; kept up to date here.
        save: called with the record whenever it has changed.
        kind: of its VMs, see launcher.emulator.places.
    """

    def __init__(
        self,
        record: Json,
        root: Path,
        market: Sequence[Incident],
        progress: list[Progress],
        save: Callable[[Json], None],
        kind: str = "process",
    ) -> None:
        self.record = record
        self._root = root
        self._market = market
        self._progress = progress
        self._save = save
        self._kind = kind
        self._site: Site | None = None
        self._pools = customjobs.pools(record)
        self._pool_of = {name: pool for pool in self._pools for name in pool.replica_names()}
        self._lifecycle = Lifecycle(list(self._pool_of))
        self._vms: dict[str, ProcessVM] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Begins to run the job."""
        self._spawn(self._begin())

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
        """Takes a VM away, silently without ``notice``; Refused when it does not run."""
        if notice is None:
            self._do(self._lifecycle.vanish(replica))
        else:
            self._do(self._lifecycle.preempt(replica, notice))

    def restore(self, replica: str) -> None:
        """Gives a VM back; Refused when it was not taken away."""
        self._do(self._lifecycle.restore(replica))

    @property
    def state(self) -> JobState:
        """The job's state."""
        return self._lifecycle.state

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

    async def _begin(self) -> None:
        self._publish()
        commands = self._lifecycle.begin()
        if not commands:
            return
        self._publish()
        try:
            job_id = self.record["name"].rpartition("/")[2]
            self._site = open_site(self._kind, {n: hostname(job_id, n) for n in self._pool_of})
            for name, pool in self._pool_of.items():
                self._vms[name] = self._vm(pool, name, self._site.place(name))
        except OSError as error:
            self._do(self._lifecycle.fail(INTERNAL, f"No VM for a replica: {error}"))
            return
        self._do(commands)

    def _vm(self, pool: Pool, name: str, place: Place) -> ProcessVM:
        _, project, _, region, _, job_id = self.record["name"].split("/")
        host = hostname(job_id, name)
        metadata = Metadata(Identity(project, region, host, place.address))
        listener = Listener(metadata.app(), place.metadata)
        service = {
            "HOSTNAME": host,
            "CLUSTER_SPEC": cluster_spec(job_id, self._pools, name),
            "CLOUD_ML_JOB_ID": job_id,
            "CLOUD_ML_PROJECT_ID": numeric_project(project),
            "GCE_METADATA_HOST": listener.authority,
            "GCE_METADATA_IP": listener.authority,
            ENV_ADDRESS: place.address,
        }
        if output := customjobs.output_directory(self.record):
            service["AIP_MODEL_DIR"] = f"{output}/model/"
            service["AIP_CHECKPOINT_DIR"] = f"{output}/checkpoints/"
            service["AIP_TENSORBOARD_LOG_DIR"] = f"{output}/logs/"
        workers = sum(one.slots * len(one.replica_names()) for one in self._pools)
        base = base_environment(workers) | {ENV_SLOTS: str(pool.slots)}
        environment = container_environment(base, pool.env, service)
        command = [expand(part, environment) for part in (*pool.command, *pool.args)]
        return ProcessVM(
            command if pool.command else [*ENTRY_POINT, *command],
            environment,
            metadata,
            listener,
            place,
            ReplicaLog(self._root, job_id, name),
            lambda incarnation, code: self._do(self._lifecycle.exited(name, incarnation, code)),
        )

    def _do(self, commands: Sequence[Command]) -> None:
        self._publish()
        for command in commands:
            self._spawn(self._carry_out(command))

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
            asyncio.get_running_loop().call_later(
                command.notice.total_seconds(), self._notice_over, command
            )
        elif isinstance(command, Freeze):
            self._vms[command.replica].freeze()
        elif isinstance(command, Kill):
            await self._vms[command.replica].kill()
        elif isinstance(command, StopAll):
            await self._stop_all()

    def _notice_over(self, notice: Notify) -> None:
        self._do(self._lifecycle.notice_over(notice.replica, notice.incarnation))

    async def _stop_all(self) -> None:
        stopping = (vm.stop(STOP_GRACE, self._hurry) for vm in self._vms.values())
        for problem in await asyncio.gather(*stopping, return_exceptions=True):
            if problem:
                log.error("a VM of %s was not shut down: %r", self.record["name"], problem)
        if self._site:
            try:
                await asyncio.to_thread(self._site.close)
            except OSError as problem:
                log.error("the VMs of %s left something: %s", self.record["name"], problem)
        self._do(self._lifecycle.stopped())
        self._ended.set()

    def _publish(self) -> None:
        """Brings the record up to date with the lifecycle."""
        state = self._lifecycle.state
        if self.record.get("state") == state.wire_name:
            return
        now = timestamp(utc_now())
        self.record["state"] = state.wire_name
        self.record["updateTime"] = now
        if state is JobState.RUNNING:
            self.record["startTime"] = now
            self._spawn(self._trade())
        if state.terminal:
            self.record["endTime"] = now
            if error := self._lifecycle.error:
                self.record["error"] = {"code": error.code, "message": error.message}
        try:
            self._save(self.record)
        except OSError as problem:  # a full disk must not keep the job's VMs alive
            log.error("%s cannot be saved: %s", self.record["name"], problem)

    async def _trade(self) -> None:
        """Lets the market happen while the job runs."""
        if not self._market:
            return
        loop = asyncio.get_running_loop()
        since, step = loop.time(), 0
        steps = StepReader(customjobs.output_directory(self.record))
        while not self._lifecycle.ending and not all(past.over for past in self._progress):
            if needs_steps(self._market, self._progress):
                step = await asyncio.to_thread(steps.completed)
            for action in due(
                self._market, self._progress, now=loop.time(), running_since=since, step=step
            ):
                self._act(action.kind, action.incident, loop.time())
            await asyncio.sleep(MARKET_POLL)

    def _act(self, kind: str, number: int, now: float) -> None:
        incident = self._market[number]
        replica = self._lifecycle.replicas.get(incident.replica)
        if self._lifecycle.ending or (replica and replica.state is ReplicaState.STARTING):
            return  # for now
        past = self._progress[number]
        if kind == "strike":
            hit = replica is not None and replica.state is ReplicaState.RUNNING
            self._progress[number] = Progress(now, over=incident.back is None or not hit)
            if hit:
                self.preempt(incident.replica, incident.notice)
            else:
                log.warning("the market finds no running %s to take", incident.replica)
        else:
            self._progress[number] = Progress(past.struck, over=True)
            if replica and replica.state in AWAY:
                self.restore(incident.replica)

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
