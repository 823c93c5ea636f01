"""The agent: one process per VM, the entry point of its replica.

It starts the VM's workers, finds the coordinator through the lease (or becomes it),
and then carries out what it is told: it forms worlds, pauses and aborts them, replaces
workers that died. It decides nothing about membership.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from trainer.agent import beside_code, preemption
from trainer.agent.coordinator_process import seat_of
from trainer.agent.death import MemoryKills, describe, kind_of, never_ready
from trainer.agent.generation import Generation
from trainer.agent.inspector import Inspector
from trainer.agent.link import Link
from trainer.agent.nursery import Nursery, for_keepers
from trainer.agent.outcome_watch import OutcomeWatch, RunEnded, exit_code_of
from trainer.agent.output_watch import OutputWatch
from trainer.agent.processes import free_port
from trainer.agent.proof import Proof
from trainer.agent.replica import Replica, find_checkpoint_urls
from trainer.agent.settings import Settings
from trainer.agent.slots import Slots
from trainer.agent.telemetry import Telemetry
from trainer.agent.telling import crashed, done, failed, hello_of, progress, spent, unreached
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol import messages
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import Credentials
from trainer.protocol.messages import Message
from trainer.protocol.wire import save_from_message
from trainer.protocol.world import Place
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import ENV_OUTPUT_DIR, ENV_RUN_ID, ENV_TOKEN

WORKER_GRACE = 3.0  # seconds for a worker to exit by itself
FALSE_NOTICE = 120.0  # seconds after which a drained agent that still lives rejoins
FLUSH = 2.0  # seconds after a grace in which a script's output is copied still
EARLY_DEATHS = 5  # workers in a row that die before they are ready, before giving up

log = logging.getLogger("swell.agent")


class Rejoin(Exception):
    """This incarnation was given up: start again as a new one."""


class Broken(Exception):
    """This machine is at fault: the replica is to be started again, on another one if possible."""


class Agent:
    """One incarnation of one replica.

    Args:
        replica: where it runs.
        run_dir: the run directory.
        settings: the run's settings.
        credentials: the run's.
        env: the environment for the workers.
        nursery: where they come from, if they can.
    """

    def __init__(
        self,
        replica: Replica,
        run_dir: RunDirectory,
        settings: Settings,
        credentials: Credentials,
        env: Mapping[str, str],
        nursery: Nursery | None = None,
    ) -> None:
        self._replica = replica
        self._run_dir = run_dir
        self._settings = settings
        self._env = env
        self._checkpoint_urls = find_checkpoint_urls(env)
        self.member = replica.member()
        self._telemetry = Telemetry(settings.telemetry, replica, env)
        self._events = EventWriter(run_dir, self.member.file_name, listener=self._telemetry.heard)
        self._slots = Slots(
            replica.slots,
            0 if settings.torchrun else settings.spares,  # a keeper holds nothing up
            self._worker_env,
            self._heard,
            self._worker_exited,
            nursery,
        )
        self._nursery = nursery
        self._link = Link(
            run_dir,
            seat_of(run_dir, credentials, self.member, replica, settings),
            replica.is_primary,
            self._introduce,
            self._carry_out,
            lambda claim, why: self._events.emit(
                "unreachable", **unreached(self.member, replica.address, claim, why)
            ),
        )
        self._proof = Proof(credentials, replica.address, lambda it: self._link.say(proved=it))
        self._inspector = Inspector(self._slots, self._link.say)
        self._generation: Generation | None = None  # the newest
        self._decided = pb.Start()  # the newest that was decided here
        self._start = pb.Start()  # the newest that was heard of
        self._output = OutputWatch.of_run(replica, run_dir, settings, env, self._events)
        self._copied = 0  # the newest generation whose output was copied at its end
        self._aborted = 0  # the newest that was broken off
        self._grace_until = 0.0
        self._working: dict[str, asyncio.Task[None]] = {}  # by what it is
        self._drain_until: float | None = None
        self._released = False
        self._outcome = OutcomeWatch(run_dir, self._notice)
        self._early_deaths = 0
        self._memory_kills = MemoryKills()
        self._conclusion: asyncio.Future[None] | None = None  # RunEnded, Rejoin or Broken

    # --- its life -------------------------------------------------------------------

    async def run(self) -> int:
        """Lives until the run ends. Returns the exit code.

        Raises Rejoin to be started again here, and Broken when another machine is better.
        """
        outcome = await asyncio.to_thread(self._run_dir.outcome)
        if outcome is not None:
            return exit_code_of(str(outcome.get("state")))
        loop = asyncio.get_running_loop()
        self._conclusion = loop.create_future()
        if self._nursery is not None:
            await self._nursery.start(self._env_of_all())
        if self.member.job:
            await self._proof.open()
        tasks = [
            loop.create_task(work)
            for work in (
                self._link.run(),
                preemption.watch(self._env, self._notice),
                self._beat(),
                self._outcome.watch(),
                self._events.flush_often(),
                self._slots.live(),
                self._telemetry.live(self._slots, lambda: self._generation, self._link.say),
                *([self._output.watch()] if self._output else []),
            )
        ]
        goes_on = True
        try:
            done, _ = await asyncio.wait(
                [*tasks, self._conclusion], return_when=asyncio.FIRST_COMPLETED
            )
            for one in done:
                one.result()
            raise AssertionError("an agent's task ended without a reason")
        except RunEnded as ended:
            goes_on = False
            if self._generation is not None and self._generation.leads:
                beside_code.tell(self._settings.code, self._events.emit)
            return exit_code_of(ended.state)
        finally:
            self._conclusion.cancel()
            with suppress(OSError):  # first: this VM may not be left the time for the rest
                await asyncio.to_thread(self._events.flush)
            tasks += self._working.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._generation is not None:
                await self._generation.close()
            await self._slots.close(WORKER_GRACE)
            if self._nursery is not None:
                await self._nursery.close()
            await self._link.close(resign=goes_on)
            await self._proof.close()
            with suppress(OSError):
                self._events.flush()

    def _conclude(self, why: Exception) -> None:
        if self._conclusion is not None and not self._conclusion.done():
            self._conclusion.set_exception(why)

    # --- the leader -----------------------------------------------------------------

    def _introduce(self) -> None:
        """Says who this is, and everything that a new leader has to know."""
        hello = hello_of(self.member, self._replica, self._link.term, self._proof.port)
        generation = self._generation
        if generation is not None:
            hello.world.CopyFrom(generation.to_message())
        self._link.say(hello=hello)
        if self._drain_until is not None:
            self._say_drain("preemption notice")
        if generation is None:
            self._say_ready()
            return
        generation.send_rows_again()
        if self._decided.generation == generation.number:
            self._link.say(start=self._decided)
        for failure in generation.failures():
            self._link.say(rank_failed=failure)
        self._say_done()
        if generation.just_started([slot.active.step for slot in self._slots.all]):
            self._say_started()  # perhaps nobody has heard of it
        if generation.half_left:
            # Nobody led when they left; the others may wait for them in a collective.
            self._link.say(crashed=pb.Crashed(reason="some of its workers left the generation"))
        self._say_stopped()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            if not self._released:
                number = 0 if self._generation is None else self._generation.number
                self._link.say(progress=progress(number, self._slots.all, time.monotonic()))

    # --- orders ---------------------------------------------------------------------

    async def _carry_out(self, order: pb.FromCoordinator) -> None:
        match order.WhichOneof("body"):
            case "form":
                await self._form(order.form)
            case "start":
                if self._current(order.start.generation) and self._start != order.start:
                    self._start = order.start
                    self._do_meanwhile(self._start_processes)
            case "pause":
                if self._output is not None:
                    self._output.stop()
                    self._grace_until = time.monotonic() + order.pause.grace
                self._slots.send(messages.Pause(order.pause.generation, order.pause.grace))
            case "abort":
                if generation := self._current(order.abort.generation):
                    generation.break_off()
                    self._aborted = generation.number
                    if self._output is not None:
                        self._output.stop()
                        self._say_stopped()  # if what they left was being copied
                self._slots.send(messages.Abort(order.abort.generation))
            case "columns":
                if generation := self._current(order.columns.generation):
                    generation.take(order.columns)
            case "replace":
                for slot in self._slots.all:
                    if slot.active.generation or slot.active.frozen:
                        slot.active.kill()
            case "save":
                holder = 0 if self._generation is None else self._generation.holder
                told = save_from_message(order.save, time.monotonic())
                self._slots.all[holder].active.send(told)
            case "release":
                self._release(order.release)
            case "prove":
                self._proof.give(order.prove)
            case "inspect" | "examine" | "profile":
                self._inspector.answer(order, self._generation)
            case "finish":
                self._conclude(RunEnded(order.finish.state, order.finish.reason))

    async def _form(self, form: pb.Form) -> None:
        generation = await Generation.begin(form, self.member, lambda it: self._link.say(row=it))
        if self._generation is not None:
            await self._generation.close()
        self._generation = generation
        for slot, place in zip(self._slots.all, generation.places, strict=True):
            slot.active.join(self._order(generation, place), place.rank)
        if self._settings.torchrun is not None and generation.leads:
            self._do_meanwhile(self._decide_start)

    def _order(self, generation: Generation, place: Place) -> messages.Form:
        term, interface = self._link.term, self._replica.interface
        if (torchrun := self._settings.torchrun) is None:
            return generation.order(place, term=term, interface=interface)
        return generation.order_to_keeper(
            place,
            term=term,
            run_id=self._env.get(ENV_RUN_ID, "run"),
            max_restarts=torchrun.max_restarts,
            interface=interface,
            env=self._env,
        )

    async def _decide_start(self, generation: Generation) -> None:
        """Decides where the processes of a generation meet, and what they begin from."""
        assert self._output is not None
        version = await self._output.newest()
        port, address = free_port(but=self._start.port), self._replica.address
        self._decided = pb.Start(
            generation=generation.number, address=address, port=port, version=version
        )
        self._link.say(start=self._decided)

    async def _start_processes(self, generation: Generation) -> None:
        assert self._output is not None
        start, number = self._start, generation.number
        await self._output.begin(number, generation.index, generation.count, start.version)
        if self._generation is generation:
            self._slots.send(messages.Start(number, start.address, start.port))

    def _do_meanwhile(self, work: Callable[[Generation], Coroutine[Any, Any, None]]) -> None:
        """Does what may take a while beside everything else, once for the newest generation.

        What goes wrong in it is the end of this agent.
        """
        assert self._generation is not None
        name = f"{work.__name__} {self._generation.number}"
        if name in self._working:
            return

        def done(task: asyncio.Task[None]) -> None:
            del self._working[name]
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, Exception)
                self._conclude(error)

        task = self._working[name] = asyncio.create_task(work(self._generation))
        task.add_done_callback(done)

    def _current(self, number: int) -> Generation | None:
        """The newest generation, if it is the one with this number."""
        generation = self._generation
        return generation if generation is not None and generation.number == number else None

    def _release(self, release: pb.Release) -> None:
        if self._released:
            return  # whatever was still on its way when it was drained
        if release.rejoin:
            self._conclude((Broken if release.broken else Rejoin)(release.reason))
            return
        # Drained. It must not exit: if it is pool 0's replica, exit 0 would end the job.
        log.info("out of the world: %s", release.reason)
        self._released = True
        if release.broken:
            self._link.renounce()
            return  # this machine is not needed any more
        asyncio.get_running_loop().call_later(
            FALSE_NOTICE, self._conclude, Rejoin("the VM was not taken away after all")
        )

    # --- notices --------------------------------------------------------------------

    def _notice(self, reason: str) -> None:
        """This VM is about to be taken away."""
        self._outcome.look_now()  # the notice may be the end of the run
        if self._drain_until is None:
            log.info("%s: leaving at the next step boundary", reason)
            self._drain_until = time.monotonic() + preemption.DEADLINE
            self._link.renounce()
            self._say_drain(reason)

    def _say_drain(self, reason: str) -> None:
        assert self._drain_until is not None
        left = max(0.0, self._drain_until - time.monotonic())
        self._link.say(drain=pb.Drain(reason=reason, deadline=left))

    # --- workers --------------------------------------------------------------------

    def _worker_env(self, slot: int, serial: int, spare: bool) -> dict[str, str]:
        torchrun = self._settings.torchrun
        session = self._settings.session(
            run_dir_url=self._run_dir.url,
            checkpoint_urls=self._checkpoint_urls,
            writer=f"{self.member.file_name}-{slot}-{serial}",
            slot=slot,
            spare=spare,
            torchrun=torchrun and for_keepers(torchrun),
        )
        output = {ENV_OUTPUT_DIR: str(self._output.root)} if self._output else {}
        return {**self._env_of_all(), **session.to_env(), **output}

    def _env_of_all(self) -> dict[str, str]:
        # The workers need no token: they talk to nobody but this agent.
        return {key: value for key, value in self._env.items() if key != ENV_TOKEN}

    async def _heard(self, worker: WorkerProcess, message: Message) -> None:
        """Acts on what a worker says."""
        generation = self._generation
        match message:
            case messages.Ready():
                self._early_deaths = 0
                if self._slots.all and self._slots.is_active(worker):
                    self._say_ready()
            case messages.Started():
                if generation is not None:
                    generation.note_started(worker.slot, message)
                if self._say_started():
                    self._slots.fill_soon()
            case messages.Steps():
                self._events.emit("steps", **vars(message))
            case messages.Ranks():
                self._events.emit("ranks", **vars(message))
                self._link.say(ranks=spent(message))
            case messages.Stopped():
                if generation is not None:
                    generation.note_stopped(worker.slot, message)
                self._say_stopped()
            case messages.Saved(step, unsaved):
                if why := await self._outcome.saved(step, unsaved):
                    self._events.emit("finished", state="limited", reason=why, step=step)
                    self._outcome.look_now()
            case messages.Exited():
                if generation is not None and self._output is not None:
                    self._output.stop()  # nobody goes on with what it was writing
                    self._link.say(rank_failed=generation.note_failed(message))
            case messages.Done(by_all=True):
                if generation is not None:
                    generation.note_done(worker.slot, message)
                self._say_done()
            case messages.Done() if worker.rank == 0:
                self._link.say(done=done(message))
            case messages.Failed(reason, kind):
                self._say_failed(worker, reason, kind)
            case messages.Event(name, fields):
                self._events.emit(name, **fields)

    async def _worker_exited(self, worker: WorkerProcess, code: int) -> None:
        was_active = self._slots.is_active(worker)
        starved = code == -signal.SIGKILL and self._memory_kills.rose()
        kind = kind_of(code, expected=worker.ends, out_of_memory=starved)
        reason = describe(code, told=kind != "crash", out_of_memory=starved)
        if not worker.ready:
            self._early_deaths += 1
        if was_active and self._generation is not None:
            self._generation.note_crashed(worker.slot, worker.step)
        if self._early_deaths >= EARLY_DEATHS:
            self._say_failed(worker, never_ready(self._early_deaths, code, reason))
            return
        warm = was_active and any(spare.idle for spare in self._slots.all[worker.slot].spares)
        if was_active:
            self._link.say(crashed=crashed(worker, reason, kind, warm))
        await self._slots.replace(worker)
        self._say_ready()

    def _say_ready(self) -> None:
        """Every slot is warm, and none is in a generation: the member can take part."""
        if not self._released and self._slots.idle:
            self._link.say(ready=pb.Ready())

    def _say_started(self) -> bool:
        """Says that all workers have begun in the generation, if so. Returns whether they have."""
        started = None if self._generation is None else self._generation.started()
        if started is not None:
            self._link.say(started=started)
        return started is not None

    def _say_done(self) -> None:
        """The script has ended well: here, or in all slots where what it wrote is copied first."""
        generation = self._generation
        if generation is None:
            return
        if self._output is None:
            for one in generation.ended:
                self._link.say(done=done(one))
        elif (all_done := generation.done()) is not None:
            if self._copied == generation.number:
                self._link.say(done=all_done)
            else:
                self._do_meanwhile(self._copy_all)

    async def _copy_all(self, generation: Generation) -> None:
        assert self._output is not None
        await self._output.end(whole=True)
        if generation.leads:
            await self._output.finish()
        if self._generation is generation:
            self._copied = generation.number
            self._say_done()

    async def _copy_in_time(self, generation: Generation) -> None:
        """Copies what processes have left that were asked to end, and then says that they have."""
        assert self._output is not None
        left = max(0.0, self._grace_until - time.monotonic()) + FLUSH
        await self._output.end(whole=generation.whole, limit=left)
        if self._generation is generation:
            self._copied = generation.number
            self._say_stopped()

    def _say_stopped(self) -> None:
        """All workers have left the generation: they wait, with what they hold."""
        generation = self._generation
        stopped = None if generation is None else generation.stopped()
        if generation is None or stopped is None:
            return
        if self._output is None or generation.number in (self._copied, self._aborted):
            self._link.say(stopped=stopped)
            self._say_ready()
        else:
            self._do_meanwhile(self._copy_in_time)

    def _say_failed(self, worker: WorkerProcess, reason: str, kind: str = "program") -> None:
        print(reason, file=sys.stderr, flush=True)
        self._link.say(task_failed=failed(worker, reason, kind))
