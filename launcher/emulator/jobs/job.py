"""One running CustomJob: carries out what its lifecycle commands, on VMs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial

from launcher.emulator.jobs.injector import IncidentInjector
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
    Replica,
    ReplicaState,
    Rules,
    Start,
    Stop,
    StopAll,
    Survivors,
)
from launcher.emulator.jobs.machines import Machines
from launcher.emulator.logs import parse_timestamp, timestamp, utc_now
from launcher.emulator.market.exchange import Exchange
from launcher.emulator.market.market import Bid
from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import JobState, Json

LONGEST_TIMER = 30 * 86_400.0  # seconds
STOP_GRACE = 3.0  # seconds between SIGTERM and SIGKILL when a job ends

log = logging.getLogger(__name__)


class Job:
    """A job from its creation until nothing of it runs any more.

    Args:
        record: the CustomJob in the normal form, with ``name``; kept up to date here.
        number: the job's number in the order of creation.
        machines: its VMs.
        exchange: the Spot market, which grants and takes VMs.
        incidents: what befalls its VMs on the market file's orders.
        save: called with the record, and with what ``resume`` needs, whenever either has changed.
    """

    def __init__(
        self,
        record: Json,
        number: int,
        machines: Machines,
        exchange: Exchange,
        incidents: IncidentInjector,
        save: Callable[[Json, Json], None],
    ) -> None:
        self.record = record
        self._number = number
        self._machines = machines
        self._exchange = exchange
        self._incidents = incidents
        self._save = save
        self._scheduling = customjobs.scheduling(record)
        self._region: str = record["name"].split("/")[3]
        self._lifecycle = Lifecycle(
            list(machines.types),
            Rules(
                self._region,
                self._scheduling.restart_job_on_worker_restart,
                self._scheduling.disable_retries,
                Survivors(exchange.market.survivors),
            ),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._notices: dict[str, float] = {}  # when they are over, by the machine's clock
        self._ran_since: float | None = None  # in the market's time
        self._saved: Json = {}
        self._abandoned = False
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Begins to run the job."""
        self._publish()
        self._exchange.enter(self._number, self)
        self._set_limits()

    def resume(self, kept: Json) -> None:
        """Goes on with a job whose emulator was killed.

        Args:
            kept: what was saved last.

        Raises OSError when its VMs cannot be had back.
        """
        begun = self._machines.adopt(kept["machines"], lambda name: partial(self._exited, name))
        self._saved = kept
        self._ran_since = kept["ran_since"]
        commands = self._lifecycle.resume(kept["lifecycle"], begun)
        self._exchange.enter(self._number, self, again=True)
        self._set_limits()
        for name, replica in self._lifecycle.replicas.items():
            if replica.state is ReplicaState.NOTICED:
                self._machines[name].warn()
                self._await_notice(name, replica.incarnation, kept["notices"].get(name, 0.0))
        if self._ran_since is not None:
            self._spawn(self._incidents.run(self, self._ran_since))
        self._do(self._provided(commands))

    async def abandon(self) -> None:
        """Kills what runs of a job that cannot be resumed."""
        self._exchange.leave(self._number)
        for task in self._tasks:
            task.cancel()
        for timer in self._timers:
            timer.cancel()
        self._abandoned = True
        self._hurry.set()
        await self._machines.close(0.0, self._hurry)

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
            machines=self._machines.types,
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
        self._do(self._provided(commands))

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

    @property
    def ending(self) -> bool:
        """Whether the job's end is decided, even if VMs are still being shut down."""
        return self._lifecycle.ending

    def replica(self, name: str) -> Replica | None:
        """The state of the replica of that name; None when the job has none."""
        return self._lifecycle.replicas.get(name)

    def replicas(self) -> list[Json]:
        """What is known of each replica."""
        return [self._shown(name, replica) for name, replica in self._lifecycle.replicas.items()]

    def _shown(self, name: str, replica: Replica) -> Json:
        vm = self._machines.get(name)
        # Who has got a notice is as good as gone.
        state = ReplicaState.PREEMPTED if replica.state is ReplicaState.NOTICED else replica.state
        return {
            "replica": name,
            "state": state.value,
            "address": vm.address if vm else None,
            "restarts": replica.restarts,
            "pid": vm.pid if vm else None,
        }

    def _do(self, commands: Sequence[Command]) -> None:
        if self._abandoned:
            return
        self._publish()
        for command in commands:
            self._spawn(self._carry_out(command))
        self._exchange.wake()

    def _provided(self, commands: Sequence[Command]) -> Sequence[Command]:
        """Makes the VMs that are to be started. Returns what is to be done."""
        try:
            for command in commands:
                if isinstance(command, Start):
                    self._machines.make(command.replica, partial(self._exited, command.replica))
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else INTERNAL
            return self._lifecycle.fail(code, f"No VM for a replica: {error}")
        return commands

    async def _carry_out(self, command: Command) -> None:
        vms = self._machines
        match command:
            case Start(replica, incarnation):
                try:
                    await vms[replica].start(incarnation)
                except OSError as error:
                    self._do(self._lifecycle.not_started(replica, incarnation, str(error)))
                else:
                    self._do(self._lifecycle.started(replica, incarnation))
            case Notify(replica, incarnation, notice):
                over = asyncio.get_running_loop().time() + notice.total_seconds()
                self._await_notice(replica, incarnation, over)
                self._publish()
                vms[replica].notify()
            case Freeze(replica):
                vms[replica].freeze()
            case Kill(replica):
                await vms[replica].kill()
            case Stop(replica):
                await vms[replica].shut_down(STOP_GRACE, self._hurry)
            case StopAll():
                await self._stop_all()

    def _exited(self, replica: str, incarnation: int, code: int) -> None:
        self._do(self._lifecycle.exited(replica, incarnation, code))

    def _await_notice(self, replica: str, incarnation: int, over: float) -> None:
        self._notices[replica] = over
        seconds = over - asyncio.get_running_loop().time()
        self._after(seconds, partial(self._notice_over, replica, incarnation))

    def _notice_over(self, replica: str, incarnation: int) -> None:
        self._do(self._lifecycle.notice_over(replica, incarnation))

    async def _stop_all(self) -> None:
        await self._machines.close(STOP_GRACE, self._hurry)
        for timer in self._timers:
            timer.cancel()
        self._do(self._lifecycle.stopped())
        self._exchange.leave(self._number)
        self._ended.set()

    def _publish(self) -> None:
        """Brings the record, and what is kept, up to date with the lifecycle."""
        state = self._lifecycle.state
        changed = self.record.get("state") != state.wire_name
        if changed:
            self._enter(state)
        kept = {
            "number": self._number,
            "lifecycle": self._lifecycle.kept(),
            "machines": self._machines.kept(),
            "notices": dict(self._notices),
            "ran_since": self._ran_since,
        }
        if not changed and kept == self._saved:
            return
        self._saved = kept
        try:
            self._save(self.record, kept)
        except OSError as problem:  # a full disk must not keep the job's VMs alive
            log.error("%s cannot be saved: %s", self.record["name"], problem)

    def _enter(self, state: JobState) -> None:
        now = timestamp(utc_now())
        self.record["state"] = state.wire_name
        self.record["updateTime"] = now
        if state is JobState.RUNNING and "startTime" not in self.record:
            self.record["startTime"] = now
            self._ran_since = self._exchange.now
            self._set_limits()
            self._spawn(self._incidents.run(self, self._ran_since))
        if state.terminal:
            self.record["endTime"] = now
            if error := self._lifecycle.error:
                self.record["error"] = {"code": error.code, "message": error.message}

    def _set_limits(self) -> None:
        """Sets the clock for how long the job may wait, or run."""
        limit, since, over = self._scheduling.max_wait, self.record["createTime"], self._expire
        if "startTime" in self.record:
            limit, since, over = self._scheduling.timeout, self.record["startTime"], self._time_out
        if limit is not None:
            passed = (utc_now() - parse_timestamp(since)).total_seconds()
            self._after(limit.total_seconds() - passed, over)

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
