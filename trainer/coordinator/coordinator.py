"""The elected leader of a run: a thin gRPC server around ``membership``.

Agents hold one stream each. What they say becomes events of the state machine, what
the machine orders goes to their streams, into the run's events, and, at the end, into
outcome.json. All decisions are in trainer.coordinator.membership.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from trainer.coordinator.limits import Limits
from trainer.coordinator.membership import Membership
from trainer.protocol import signals
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import Credentials
from trainer.protocol.lease import Claim, create_claim, last_announced, newest_term, renew_claim
from trainer.protocol.mesh import Mesh
from trainer.protocol.wire import (
    KEEPALIVE,
    MESSAGE_LIMIT,
    METHOD,
    SERVICE,
    event_from_message,
    order_to_message,
    slots_of,
    world_from_message,
    world_to_message,
)
from trainer.protocol.world import MemberId, World
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import OutcomeState

TICK = 0.1  # seconds
FLUSH = 0.5  # seconds between batches of events
HEIRS = 16  # members that may contend early
HAND_OVER_LIMIT = 1.5  # seconds in which another coordinator leads, or none will
HAND_OVER_LOOK = 0.05  # seconds
# Whoever has not shown the run's certificate and token gets little, and not for long.
STRANGERS = (
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_allowed_incoming_connections", 8192),
    ("grpc.max_concurrent_streams", 4),  # of one connection; an agent has one
    ("grpc.max_metadata_size", 4096),  # bytes; an agent sends 200
    ("grpc.absolute_max_metadata_size", 4096),
)
HELLO_WAIT = 10.0  # seconds for the first message of a stream

Stream = asyncio.Queue[bytes | None]  # serialised: what goes to all members is made once


class Coordinator:
    """Leads one run during one term.

    Args:
        run_dir: the run directory.
        limits: membership's, and the lease's.
        expected_workers: the slots that the run was asked for.
        credentials: the run's, which every agent must show.
        address: the IP address to listen on.
        leader: the member whose agent hosts this coordinator.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        limits: Limits,
        expected_workers: int,
        credentials: Credentials,
        address: str,
        leader: MemberId,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._limits = limits
        self._expected = expected_workers
        self._credentials = credentials
        self._address = address
        self._leader = leader
        self._clock = clock
        self._claim = Claim(0, str(leader), "")
        self._streams: dict[MemberId, Stream] = {}
        self._addresses: dict[MemberId, str] = {}
        self._meshes: dict[str, Mesh] = {}  # of the newest world: those that are incomplete
        self._ranks: dict[str, dict[MemberId, list[int]]] = {}  # by scope: who has which
        self._tasks: list[asyncio.Task[None]] = []
        self._commands: asyncio.Queue[signals.Command] = asyncio.Queue()
        self._renewing = asyncio.Lock()
        self._renewed = 0.0  # when the newest renewal that succeeded began
        self._ready = asyncio.Event()
        self._closing: asyncio.Future[None] | None = None
        self._leads = True
        self._drain: tuple[signals.Drain, float] | None = None  # held back, and since when
        self._heir: MemberId | None = None  # who was asked to lead next
        self._looking: asyncio.Task[None] | None = None  # whether it does
        self.hand_over_limit = HAND_OVER_LIMIT
        self.ended = asyncio.Event()  # it leads no longer

    # --- the lease ------------------------------------------------------------------

    async def lead(self, term: int, last_generation: int, deposed: MemberId | None = None) -> bool:
        """Starts to serve and claims ``term``. Returns False, stopped again, if it was taken.

        Args:
            term: its number.
            last_generation: the newest that is known of an earlier leader; 0 without one.
            deposed: who that leader was.
        """
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MESSAGE_LIMIT),
                ("grpc.so_reuseport", 0),
                *STRANGERS,
                *KEEPALIVE,
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
            ]
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._join,
            request_deserializer=pb.FromAgent.FromString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        secure = self._credentials.for_server()
        port = self._server.add_secure_port(f"{self._address}:0", secure)
        await self._server.start()
        target = f"{self._address}:{port}"
        self._claim = Claim(term, str(self._leader), target, last_generation)
        self._renewed = self._clock()
        if not await asyncio.to_thread(create_claim, self._run_dir, self._claim):
            await self._server.stop(None)
            return False
        announced = await self._ask_what_was_announced(term)
        if announced is None:
            await self._server.stop(None)
            return False
        self._machine = Membership(
            self._limits, self._expected, self._clock(), max(last_generation, announced), deposed
        )
        self._events = EventWriter(self._run_dir, f"leader-{term:06d}")
        self._events.emit("leader_changed", term=term, member=self._leader.replica, address=target)
        loop = asyncio.get_running_loop()
        for work in (
            self._tick(),
            self._renew_often(),
            self._beat(),
            self._flush(),
            self._carry_out_all(),
        ):
            self._tasks.append(loop.create_task(work))
        self._ready.set()
        return True

    async def _ask_what_was_announced(self, term: int) -> int | None:
        """The newest generation of all leaders before; None if the store does not say in time."""
        while self._holds:
            with suppress(OSError):
                return await asyncio.to_thread(last_announced, self._run_dir, term)
            await asyncio.sleep(TICK)
        return None

    async def stop(self, *, resign: bool = False) -> None:
        """Ends all streams, writes what events are left, and stops serving.

        With ``resign`` the claim says so: whoever sees it may contend at once.
        """
        self._leads = False
        for task in self._tasks:
            task.cancel()
        for stream in self._streams.values():
            stream.put_nowait(None)
        await self._close_server(1.0)
        with suppress(OSError):
            if resign:
                claim = replace(self._claim, resigned=True)
                await asyncio.to_thread(renew_claim, self._run_dir, claim)
            await asyncio.to_thread(self._events.flush)
        self.ended.set()

    def _hand_over(self, drain: signals.Drain) -> None:
        """This VM is to go. First another member is to lead, who then hears of the drain.

        Until it claims the next term, this one leads. All others follow it when they see its
        claim; the running generation goes on. If nobody does, this VM leaves as any other.
        """
        if self._drain is None:
            self._drain = drain, self._clock()
            asyncio.get_running_loop().call_later(self.hand_over_limit, self._part)
            self._call_heir()
        if self._heir is not None and self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._await_successor())
            self._tasks.append(self._looking)

    def _call_heir(self) -> None:
        """Asks somebody who stays to lead next."""
        self._heir = next((one for one in self._heirs() if self._machine.members.stays(one)), None)
        if self._heir is None:
            self._part()
        else:
            self._send(self._heir, pb.FromCoordinator(succeed=pb.Succeed()))

    def _part(self) -> None:
        """Nobody leads next, as it seems: the drain that was held back takes its course."""
        if self._drain is not None and self._leads:
            (drain, since), self._drain = self._drain, None
            left = drain.deadline - (self._clock() - since)
            self._step(replace(drain, deadline=max(0.0, left)))

    def _heirs(self) -> list[MemberId]:
        """Those who may contend early: they are told that this leader lives."""
        others = (one for one in self._streams if one != self._leader)
        return list(islice(others, HEIRS))

    async def _await_successor(self) -> None:
        while self._leads:
            await asyncio.sleep(HAND_OVER_LOOK)
            with suppress(OSError):
                if await asyncio.to_thread(newest_term, self._run_dir) > self._claim.term:
                    await self._step_down()

    async def _renew_often(self) -> None:
        while self._leads:
            await asyncio.sleep(self._limits.lease_renew)
            if not self._holds:
                await self._step_down()
                return
            with suppress(OSError):  # a store that is away for a moment; the next try may do
                await self._renew(self._machine.generation)

    async def _renew(self, generation: int) -> bool:
        """Renews the lease, and announces ``generation``. Returns whether this one leads still.

        Raises OSError when the store does not say.
        """
        async with self._renewing:
            began = self._clock()
            newest = max(generation, self._claim.generation)
            claim = replace(self._claim, generation=newest, counter=self._claim.counter + 1)
            self._claim = claim
            if await asyncio.to_thread(renew_claim, self._run_dir, claim):
                self._renewed = began
                return True
        await self._step_down()
        return False

    @property
    def _holds(self) -> bool:
        """Whether nobody can have found this leader's claim stale."""
        return self._clock() - self._renewed < self._limits.lease_timeout

    async def _step_down(self) -> None:
        """Somebody else leads, or may: whoever is connected is to look for it."""
        if not self._leads:
            return
        self._leads = False
        for stream in self._streams.values():
            stream.put_nowait(None)
        await self._close_server(None)
        self.ended.set()

    async def _close_server(self, grace: float | None) -> None:
        # Once, and shielded: stop() cancels whoever is here, and gRPC takes that for its own end.
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._server.stop(grace))
        await asyncio.shield(self._closing)

    # --- agents ---------------------------------------------------------------------

    async def _join(
        self,
        requests: AsyncIterator[pb.FromAgent],
        context: grpc.aio.ServicerContext[pb.FromAgent, bytes],
    ) -> AsyncIterator[bytes]:
        """One agent's stream, from hello to the end."""
        await self._ready.wait()
        if not self._credentials.shown_in(context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the run's token is needed")
        try:
            hello = (await asyncio.wait_for(anext(requests), HELLO_WAIT)).hello
            member = MemberId.parse(hello.member)
            world = world_from_message(hello.world) if hello.HasField("world") else None
        except (StopAsyncIteration, ValueError, DecodeError, asyncio.TimeoutError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream begins with a hello")
            return
        if hello.term not in (0, self._claim.term):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this is another term")
            return
        stream: Stream = asyncio.Queue()
        if member in self._streams:
            self._streams[member].put_nowait(None)  # its agent gave up that connection
        self._streams[member] = stream
        self._addresses[member] = hello.address
        if world is not None:
            for one in hello.world.slots:
                self._addresses.setdefault(MemberId.parse(one.member), one.address)
        self._take(signals.Joined(member, slots_of(hello), world))
        listening = asyncio.create_task(self._listen(member, requests, stream))
        try:
            while (message := await stream.get()) is not None:
                yield message
        finally:
            listening.cancel()
            if self._streams.get(member) is stream:
                del self._streams[member]
                if self._heir is None:  # else it follows the next leader; or its silence tells
                    self._take(signals.Left(member, "its connection broke"))

    async def _listen(
        self, member: MemberId, requests: AsyncIterator[pb.FromAgent], stream: Stream
    ) -> None:
        try:
            async for message in requests:
                if message.WhichOneof("body") == "row":
                    self._collect(member, message.row)
                else:
                    event = event_from_message(member, message)
                    if event is not None:
                        self._take(event)
        except (ValueError, DecodeError, grpc.RpcError, asyncio.CancelledError):
            pass  # a broken connection, or something that is no agent: it leaves
        finally:
            stream.put_nowait(None)

    # --- membership -----------------------------------------------------------------

    def _take(self, event: signals.Event) -> None:
        if not self._leads:
            return  # they leave because they were sent away: that is no loss
        if not self._holds:  # and will not again: the machine would miss what happened meanwhile
            self._tasks.append(asyncio.get_running_loop().create_task(self._step_down()))
            return
        if isinstance(event, signals.Drain) and event.member == self._leader:
            self._hand_over(event)
        else:
            self._step(event)

    def _step(self, event: signals.Event) -> None:
        for command in self._machine.step(event, self._clock()):
            self._commands.put_nowait(command)
        heir = self._heir
        if self._drain is not None and heir is not None and not self._machine.members.stays(heir):
            self._call_heir()

    async def _carry_out_all(self) -> None:
        """Carries out all commands in order, each only while this is the leader."""
        while True:
            command = await self._commands.get()
            if isinstance(command, signals.Form) and not await self._announced(command.world):
                return
            if self._leads:
                self._carry_out(command)

    async def _announced(self, world: World) -> bool:
        """Announces a world. Returns False when it must not be formed: somebody else leads."""
        while self._leads and self._holds:
            with suppress(OSError):  # until the store says, this one may have been deposed
                return await self._renew(world.generation)
            await asyncio.sleep(TICK)
        return False

    def _carry_out(self, command: signals.Command) -> None:
        if isinstance(command, signals.Emit):
            self._events.emit(command.event, **command.fields)
        elif isinstance(command, signals.Form):
            self._meshes.clear()
            self._ranks.clear()
            message = pb.Form(
                world=world_to_message(command.world, self._addresses),
                gloo_timeout=self._machine.timeouts(self._clock()).gloo_timeout,
            )
            self._send_world(command.world, pb.FromCoordinator(form=message))
        elif isinstance(command, signals.Pause):
            pause = pb.Pause(generation=command.world.generation)
            self._send_world(command.world, pb.FromCoordinator(pause=pause))
        elif isinstance(command, signals.Abort):
            abort = pb.Abort(generation=command.world.generation)
            self._send_world(command.world, pb.FromCoordinator(abort=abort))
        elif isinstance(command, signals.Replace):
            self._send(command.member, pb.FromCoordinator(replace=pb.Replace()))
        elif isinstance(command, signals.Save | signals.Release):
            self._send(command.member, order_to_message(command))
        else:
            self._tasks.append(asyncio.get_running_loop().create_task(self._end(command)))

    def _send(self, member: MemberId, message: pb.FromCoordinator) -> None:
        stream = self._streams.get(member)
        if stream is not None:
            stream.put_nowait(message.SerializeToString())

    def _send_world(self, world: World, message: pb.FromCoordinator) -> None:
        data = message.SerializeToString()
        for member in world.members:
            stream = self._streams.get(member)
            if stream is not None:
                stream.put_nowait(data)

    def _collect(self, member: MemberId, row: pb.Row) -> None:
        """Takes in one rank's row of a mesh; a mesh that is complete goes out as columns.

        Raises ValueError for what is no row.
        """
        world = self._machine.world
        if world is None or row.generation != world.generation:
            return
        if row.size > world.size:
            raise ValueError(f"a mesh of {row.size} in a world of {world.size}")
        mesh = self._meshes.setdefault(row.scope, Mesh(row.size))
        mesh.add(row.row.rank, row.row.addresses)
        ranks = self._ranks.setdefault(row.scope, defaultdict(list))
        if row.row.rank not in ranks[member]:
            ranks[member].append(row.row.rank)
        if not mesh.complete:
            return
        columns = mesh.columns()
        for one, its in self._ranks.pop(row.scope).items():
            addresses = [pb.Addresses(rank=rank, addresses=columns[rank]) for rank in its]
            message = pb.Columns(generation=row.generation, scope=row.scope, columns=addresses)
            self._send(one, pb.FromCoordinator(columns=message))
        del self._meshes[row.scope]

    async def _end(self, command: signals.Finish) -> None:
        """Writes the outcome, if this is still the leader, and tells everybody what counts."""
        while True:
            try:
                outcome = await asyncio.to_thread(self._write_outcome, command)
                break
            except OSError:  # a store that is away for a moment
                await asyncio.sleep(FLUSH)
        if outcome is None:
            await self._step_down()
            return
        finish = pb.Finish(state=str(outcome["state"]), reason=str(outcome["reason"]))
        data = pb.FromCoordinator(finish=finish).SerializeToString()
        for stream in self._streams.values():
            stream.put_nowait(data)

    def _write_outcome(self, command: signals.Finish) -> dict[str, Any] | None:
        """Returns the outcome that counts: another one's, if that came first. None: replaced.

        There is one outcome at most, whoever writes it. A leader that is deposed between the
        check and the write may still end the run; but what it says was reported to it by the
        one world of the run while it led, after which nobody can report otherwise: that the
        training is complete, or that the user's code has raised. Its successor finds the
        outcome, as every agent does, and ends by it.
        """
        if newest_term(self._run_dir) > self._claim.term:
            return None
        state: OutcomeState = "succeeded" if command.state == "succeeded" else "failed"
        self._events.flush()
        self._run_dir.end(state, command.reason, term=self._claim.term, metrics=command.metrics)
        return self._run_dir.outcome()

    # --- time -----------------------------------------------------------------------

    async def _beat(self) -> None:
        beat = pb.FromCoordinator(beat=pb.Beat()).SerializeToString()
        while True:
            if self._holds:
                for heir in self._heirs():
                    self._streams[heir].put_nowait(beat)
            await asyncio.sleep(self._limits.heartbeat)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._take(signals.Tick())

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            with suppress(OSError):  # what could not be written stays buffered
                await asyncio.to_thread(self._events.flush)
