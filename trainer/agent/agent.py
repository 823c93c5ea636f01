"""The entry point of a replica: `swell-agent`, one process per VM.

It starts the VM's workers, finds the coordinator through the lease (or becomes it),
and then carries out what it is told: it forms worlds, pauses and aborts them, replaces
workers that died. It decides nothing about membership.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from trainer.agent import preemption
from trainer.agent.code import bring
from trainer.agent.ending import Ended, Ending
from trainer.agent.environment import horovod_environment
from trainer.agent.host import seat_of
from trainer.agent.link import Link, Refused
from trainer.agent.process import Message, WorkerProcess, describe_exit
from trainer.agent.rendezvous import Rendezvous
from trainer.agent.replica import Replica, find_checkpoint_urls, find_replica, hostname_trap
from trainer.agent.settings import Settings
from trainer.agent.slots import Slots
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import Credentials, find_credentials
from trainer.protocol.lease import newest_claim
from trainer.protocol.session import Session
from trainer.protocol.wire import addresses_in, share_in, world_from_message, world_to_message
from trainer.protocol.world import MemberId, World
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import ENV_RUN_DIR, ENV_TOKEN, EXIT_FAILED, EXIT_OK, EXIT_RETRY
from trainer.rundir.retry import START_LIMIT, patiently

WORKER_GRACE = 3.0  # seconds for a worker to exit by itself
FALSE_NOTICE = 120.0  # seconds after which a drained agent that still lives rejoins
EARLY_DEATHS = 5  # workers in a row that die before they are ready, before giving up

log = logging.getLogger("swell.agent")


class Rejoin(Exception):
    """This incarnation was given up: start again as a new one."""


class Agent:
    """One incarnation of one replica.

    Args:
        replica: where it runs.
        run_dir: the run directory.
        settings: the run's settings.
        credentials: the run's.
        env: the environment for the workers.
    """

    def __init__(
        self,
        replica: Replica,
        run_dir: RunDirectory,
        settings: Settings,
        credentials: Credentials,
        env: Mapping[str, str],
    ) -> None:
        self._replica = replica
        self._run_dir = run_dir
        self._settings = settings
        self._credentials = credentials
        self._env = env
        self._checkpoint_urls = find_checkpoint_urls(env)
        self.member = replica.member()
        self._events = EventWriter(run_dir, str(self.member).replace("#", "-"))
        self._slots = Slots(
            replica.slots, settings.spares, self._worker_env, self._heard, self._worker_exited
        )
        self._link = Link(
            run_dir,
            seat_of(run_dir, credentials, self.member, replica, settings),
            replica.is_primary,
            self._introduce,
            self._carry_out,
        )
        self._world: World | None = None
        self._addresses: dict[MemberId, str] = {}
        self._rendezvous: Rendezvous | None = None
        self._started: dict[int, Message] = {}  # by slot, in the current generation
        self._stopped: dict[int, Message] = {}
        self._drain_until: float | None = None
        self._released = False
        self._run_end = Ending(run_dir, self._notice)
        self._early_deaths = 0
        self._ending: asyncio.Future[None] | None = None

    # --- its life -------------------------------------------------------------------

    async def run(self) -> int:
        """Lives until the run ends. Returns the exit code; raises Rejoin to be started again."""
        outcome = await asyncio.to_thread(self._run_dir.outcome)
        if outcome is not None:
            return _exit_code(str(outcome.get("state")))
        loop = asyncio.get_running_loop()
        self._ending = loop.create_future()
        tasks = [
            loop.create_task(work)
            for work in (
                self._link.run(),
                preemption.watch(self._env, self._notice),
                self._beat(),
                self._run_end.watch(),
                self._events.flush_often(),
            )
        ]
        goes_on = True
        try:
            await self._slots.start()
            done, _ = await asyncio.wait(
                [*tasks, self._ending], return_when=asyncio.FIRST_COMPLETED
            )
            for one in done:
                one.result()
            raise AssertionError("an agent's task ended without a reason")
        except Ended as ended:
            goes_on = False
            return _exit_code(ended.state)
        finally:
            self._ending.cancel()
            with suppress(OSError):  # first: this VM may not be left the time for the rest
                await asyncio.to_thread(self._events.flush)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._rendezvous is not None:
                await self._rendezvous.close()
            await self._slots.close(WORKER_GRACE)
            await self._link.close(resign=goes_on)
            with suppress(OSError):
                self._events.flush()

    def _end(self, why: Exception) -> None:
        if self._ending is not None and not self._ending.done():
            self._ending.set_exception(why)

    # --- the leader -----------------------------------------------------------------

    def _introduce(self) -> None:
        """Says who this is, and everything that a new leader has to know."""
        hello = pb.Hello(
            member=str(self.member),
            slots=self._replica.slots,
            address=self._replica.address,
            term=self._link.term,
        )
        if self._world is not None:
            hello.world.CopyFrom(world_to_message(self._world, self._addresses))
        self._link.say(hello=hello)
        if self._drain_until is not None:
            self._say_drain("preemption notice")
        if self._world is None:
            self._say_ready()
            return
        if self._rendezvous is not None and len(self._started) < len(self._slots.all):
            self._rendezvous.send_again()
        if all(slot.active.step <= self._start(slot.index) for slot in self._slots.all):
            self._say_started()  # no step since: perhaps nobody has heard of it
        if 0 < len(self._stopped) < len(self._slots.all):
            # Nobody led when they left; the others may wait for them in a collective.
            self._link.say(crashed=pb.Crashed(reason="some of its workers left the generation"))
        self._say_stopped()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            if not self._released:
                self._link.say(progress=self._progress())

    def _progress(self) -> pb.Progress:
        now = time.monotonic()
        inside = [slot.active for slot in self._slots.all if slot.active.generation]
        return pb.Progress(
            generation=0 if self._world is None else self._world.generation,
            step=max((slot.active.step for slot in self._slots.all), default=0),
            quiet=max((now - worker.heard for worker in inside), default=0.0),
            frozen=any(slot.active.frozen for slot in self._slots.all),
            waiting=bool(inside) and all(worker.waiting for worker in inside),
            received=min((worker.received for worker in inside), default=0),
            saving=max((worker.saving for worker in inside), default=0.0),
        )

    # --- orders ---------------------------------------------------------------------

    async def _carry_out(self, order: pb.FromCoordinator) -> None:
        kind = order.WhichOneof("body")
        if kind == "form":
            await self._form(order.form)
        elif kind == "pause":
            self._tell_workers("pause", order.pause.generation)
        elif kind == "abort":
            if self._rendezvous is not None and self._is_current(order.abort.generation):
                self._rendezvous.break_off()
            self._tell_workers("abort", order.abort.generation)
        elif kind == "columns":
            if self._rendezvous is not None and self._is_current(order.columns.generation):
                for one in order.columns.columns:
                    self._rendezvous.take(order.columns.scope, one.rank, one.addresses)
        elif kind == "replace":
            for slot in self._slots.all:
                if slot.active.generation or slot.active.frozen:
                    slot.active.kill()
        elif kind == "save":
            self._slots.all[0].active.send("save", **share_in(order.save))
        elif kind == "release":
            self._release(order.release)
        elif kind == "finish":
            self._end(Ended(order.finish.state, order.finish.reason))

    async def _form(self, form: pb.Form) -> None:
        world = world_from_message(form.world)
        if self._rendezvous is not None:
            await self._rendezvous.close()
        self._world = world
        self._addresses = addresses_in(form.world)
        self._started.clear()
        self._stopped.clear()
        self._rendezvous = Rendezvous(world, self.member, self._send_row)
        await self._rendezvous.start()
        places = world.places_of(self.member)
        for slot, place in zip(self._slots.all, places, strict=True):
            slot.active.generation = world.generation
            slot.active.rank = place.rank
            slot.active.received = 0
            slot.active.send(
                "form",
                generation=world.generation,
                term=self._link.term,
                env=horovod_environment(
                    place,
                    interface=self._replica.interface,
                    rendezvous_port=self._rendezvous.port,
                    gloo_timeout=form.gloo_timeout,
                ),
                addresses=sorted(set(self._addresses.values())),
            )

    def _send_row(self, scope: str, size: int, rank: int, row: bytes) -> None:
        assert self._world is not None
        addresses = pb.Addresses(rank=rank, addresses=row)
        generation = self._world.generation
        self._link.say(row=pb.Row(generation=generation, scope=scope, size=size, row=addresses))

    def _is_current(self, generation: int) -> bool:
        return self._world is not None and self._world.generation == generation

    def _tell_workers(self, op: str, generation: int) -> None:
        for slot in self._slots.all:
            slot.active.send(op, generation=generation)

    def _release(self, release: pb.Release) -> None:
        if self._released:
            return  # whatever was still on its way when it was drained
        if release.rejoin:
            self._end(Rejoin(release.reason))
            return
        # Drained. It must not exit: if it is pool 0's replica, exit 0 would end the job.
        log.info("out of the world: %s", release.reason)
        self._released = True
        asyncio.get_running_loop().call_later(
            FALSE_NOTICE, self._end, Rejoin("the VM was not taken away after all")
        )

    # --- notices --------------------------------------------------------------------

    def _notice(self, reason: str) -> None:
        """This VM is about to be taken away."""
        self._run_end.look_now()  # the notice may be the end of the run
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
        settings = self._settings
        session = Session(
            run_dir_url=self._run_dir.url,
            checkpoint_urls=self._checkpoint_urls,
            writer=f"{str(self.member).replace('#', '-')}-{slot}-{serial}",
            slot=slot,
            spare=spare,
            program=settings.program,
            checkpoint=settings.checkpoint,
            code=settings.code,
            balance=settings.balance,
            job_sha256=settings.job_sha256,
            audit=settings.audit,
        )
        # The workers need no token: they talk to nobody but this agent.
        env = {key: value for key, value in self._env.items() if key != ENV_TOKEN}
        return {**env, **session.to_env()}

    async def _heard(self, worker: WorkerProcess, message: Message) -> None:
        """Takes in one message of a worker."""
        op = message["op"]
        if op == "ready":
            worker.ready = True
            self._early_deaths = 0
            if self._slots.all and self._slots.is_active(worker):
                self._say_ready()
        elif op == "started":
            worker.step = message["step"]
            self._started[worker.slot] = message
            if self._say_started():
                self._slots.fill_soon()
        elif op == "progress":
            worker.step, worker.saving = message["step"], message.get("saving", 0.0)
        elif op == "received":
            worker.received = message["bytes"]
        elif op == "steps":
            self._events.emit(**{"event": "steps", **_without_op(message)})
        elif op == "stopped":
            worker.generation = 0
            worker.step = message["step"]
            self._stopped[worker.slot] = message
            self._say_stopped()
        elif op == "saved":
            if why := await self._run_end.saved():
                self._events.emit("finished", state="limited", reason=why, step=message["step"])
                self._run_end.look_now()
        elif op == "done":
            if worker.rank == 0:
                done = pb.Done(
                    generation=message["generation"],
                    step=message["step"],
                    metrics=message["metrics"],
                )
                self._link.say(done=done)
        elif op == "failed":
            self._say_failed(worker, message["reason"])
        elif op == "event":
            self._events.emit(**_without_op(message))

    async def _worker_exited(self, worker: WorkerProcess, code: int) -> None:
        was_active = self._slots.is_active(worker)
        if not worker.ready:
            self._early_deaths += 1
        if was_active:
            self._stopped[worker.slot] = {"step": worker.step, "clean": False, "failed": "crashed"}
        reason = describe_exit(code)
        if self._early_deaths >= EARLY_DEATHS:
            self._say_failed(
                worker,
                f"{self._early_deaths} workers in a row died before they were ready: {reason}",
            )
            return
        warm = was_active and any(spare.idle for spare in self._slots.all[worker.slot].spares)
        if was_active:
            self._link.say(crashed=pb.Crashed(reason=reason, spare=warm))
        await self._slots.replace(worker)
        self._say_ready()

    def _say_ready(self) -> None:
        """Every slot is warm, and none is in a generation: the member can take part."""
        if not self._released and self._slots.all and self._slots.idle:
            self._link.say(ready=pb.Ready())

    def _start(self, slot: int) -> int:
        """The step at which a slot's worker began in the generation; -1 if it has not."""
        return int(self._started[slot]["step"]) if slot in self._started else -1

    def _say_started(self) -> bool:
        """Says that all workers have begun in the generation, if so. Returns whether they have."""
        if self._world is None or len(self._started) < len(self._slots.all):
            return False
        started = self._started.values()
        idles = [one["idle"] for one in started if one["idle"] is not None]
        message = pb.Started(
            generation=self._world.generation, step=max(one["step"] for one in started)
        )
        if idles:
            message.idle = max(idles)
        self._link.say(started=message)
        return True

    def _say_stopped(self) -> None:
        """All workers have left the generation: they wait, with what they hold."""
        if self._world is None or len(self._stopped) < len(self._slots.all):
            return
        stopped = list(self._stopped.values())
        self._link.say(
            stopped=pb.Stopped(
                generation=self._world.generation,
                step=max(one["step"] for one in stopped),
                clean=any(one["clean"] for one in stopped),
                failed=next((one["failed"] for one in stopped if one["failed"]), ""),
            )
        )
        self._say_ready()

    def _say_failed(self, worker: WorkerProcess, reason: str) -> None:
        print(reason, file=sys.stderr, flush=True)
        self._link.say(
            task_failed=pb.TaskFailed(rank=max(0, worker.rank), step=worker.step, reason=reason)
        )


def _exit_code(state: str) -> int:
    return EXIT_FAILED if state == "failed" else EXIT_OK


def _without_op(message: Message) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "op"}


async def serve(env: Mapping[str, str]) -> int:
    """Runs the agent that ``env`` describes. Returns its exit code.

    Raises ValueError, for the user, when the environment, run directory or code is unusable.
    """
    url = env.get(ENV_RUN_DIR)
    if not url:
        raise ValueError(f"{ENV_RUN_DIR} must be set: the launcher does it")
    run_dir = RunDirectory(url)
    try:
        run = patiently(run_dir.run, limit=START_LIMIT)
    except FileNotFoundError as error:
        raise ValueError(f"{run_dir.url} is not a run directory: it has no run.json") from error
    credentials = find_credentials(env, run)
    claim = patiently(lambda: newest_claim(run_dir), limit=START_LIMIT)  # its holder is a peer
    replica = find_replica(env, claim.target.rpartition(":")[0] if claim else "")
    if trap := hostname_trap(replica.address):
        log.warning("%s", trap)
    settings = await asyncio.to_thread(bring, run_dir, Settings.of_run(run), env)
    return await Agent(replica, run_dir, settings, credentials, env).run()


def main() -> int:
    """The command `swell-agent`."""
    logging.basicConfig(
        level=os.environ.get("SWELL_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(name)s: %(message)s",
        stream=sys.stdout,
    )
    try:
        return asyncio.run(serve(os.environ))
    except Rejoin as reason:
        log.info("starting again as a new member: %s", reason)
        os.execv(sys.executable, [sys.executable, "-m", "trainer.agent"])
    except (ValueError, Refused) as error:
        print(f"swell-agent: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"swell-agent: what the run is kept in does not answer: {error}", file=sys.stderr)
        return EXIT_RETRY
