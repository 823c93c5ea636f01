"""The elected leader of a run: carries out what ``membership`` decides.

What agents say becomes events of the state machine; its commands go to the agents' streams, into
the run's events and, at the end, into outcome.json. All decisions about members are in
trainer.coordinator.membership, the gRPC service is in trainer.coordinator.server, and the lease in
trainer.coordinator.leadership.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from trainer.coordinator import attendants, succession
from trainer.coordinator.compactor import Compactor
from trainer.coordinator.explanation import Telling
from trainer.coordinator.gathering import Gathering
from trainer.coordinator.leadership import Leadership
from trainer.coordinator.member import Phase, State
from trainer.coordinator.membership import Membership
from trainer.coordinator.preflight import Preflight, Unfit
from trainer.coordinator.profiles import Profiles
from trainer.coordinator.restarts import Restarts
from trainer.coordinator.seat import Seat
from trainer.coordinator.server import Listener, Server
from trainer.coordinator.standstill import PART, Report, Standstill
from trainer.coordinator.stragglers import Stragglers, members_by_rank
from trainer.coordinator.succession import Succession
from trainer.protocol import signals
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.lease import Claim
from trainer.protocol.mesh import Meshes
from trainer.protocol.wire import order_to_message, world_to_message
from trainer.protocol.world import MemberId
from trainer.rundir.attempts import GivenUp
from trainer.rundir.events import EventWriter
from trainer.rundir.names import OutcomeState
from trainer.rundir.profiles import find_wish
from trainer.rundir.retry import NO_ROOM
from trainer.rundir.wanted import Wanted, newest_wanted
from trainer.telemetry.herald import Herald
from trainer.telemetry.logs import log_event

TICK = 0.1  # seconds
OVERSLEPT = 0.5  # seconds by which a tick may be late; what is more was nobody's silence
PROFILES_EVERY = 2.0  # seconds between two looks at which steps are to be profiled
WANTED_EVERY = 2.0  # seconds between two looks at what the run is asked to be
FINISH_AGAIN = 0.5  # seconds, when the store does not take the outcome


async def lead(
    seat: Seat,
    term: int,
    last_generation: int = 0,
    deposed: MemberId | None = None,
    *,
    hand_over_limit: float = succession.LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> Coordinator | None:
    """Starts to serve, and claims ``term``.

    Args:
        seat: what is to be led, and from where.
        term: its number.
        last_generation: the newest that is known of an earlier leader; 0 without one.
        deposed: who that leader was, if it has fallen silent.
        hand_over_limit: seconds for another member to lead when this VM is to go.
        clock: monotonic seconds.

    Returns the coordinator that leads, or None, with nothing left behind, if the term was taken.
    Raises OSError when the store does not say whose it is.
    """
    server = Server(seat.credentials, seat.address, GivenUp(seat.run_dir))
    await server.start()
    claim = Claim(
        term,
        str(seat.member),
        server.target,
        last_generation,
        attempt=seat.credentials.attempt,
    )
    async with AsyncExitStack() as unless_it_leads:
        unless_it_leads.push_async_callback(server.stop)
        leadership = await Leadership.claim(seat.run_dir, seat.limits, claim, clock)
        if leadership is None:
            return None
        unless_it_leads.pop_all()
    kind = Membership if seat.limits.max_restarts is None else Restarts
    machine = kind(seat.limits, seat.expected, clock(), leadership.generation, deposed)
    return Coordinator(seat, leadership, machine, server, hand_over_limit, clock)


class Coordinator:
    """Leads one run during one term, from the moment it is made, by ``lead``.

    Args:
        seat: what is led, and from where.
        leadership: the lease.
        machine: membership.
        server: what agents connect to.
        hand_over_limit: see ``lead``.
        clock: monotonic seconds.

    Attributes:
        ended: set when it leads no longer, and everybody has been sent away.
    """

    def __init__(
        self,
        seat: Seat,
        leadership: Leadership,
        machine: Membership,
        server: Server,
        hand_over_limit: float = succession.LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ended = asyncio.Event()
        self._seat = seat
        self._leadership = leadership
        self._machine = machine
        self._server = server
        self._clock = clock
        writer = f"leader-{leadership.term:06d}"
        self._events = EventWriter(seat.run_dir, writer, listener=log_event)
        self._meshes = Meshes()
        self._telling = Telling()
        self._preflight = Preflight()
        self._profiles = Profiles()
        self._gathering = Gathering(seat.run_dir, leadership.term, clock, self._events.emit)
        self._standstill = Standstill(seat.limits.standstill)
        self._stragglers = Stragglers(seat.limits.replace_stragglers, seat.limits.min_workers)
        self._commands: asyncio.Queue[signals.Command] = asyncio.Queue()
        self._succession = Succession(
            leadership,
            seat.member,
            machine.members,
            server.streams,
            self._step,
            hand_over_limit,
            clock,
        )
        self._events.emit(
            "leader_changed",
            term=leadership.term,
            member=seat.member.replica,
            address=server.target,
            attempt=seat.credentials.attempt,
        )
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                leadership.keep(lambda: machine.generation),
                self._withdraw(),
                self._tick(),
                self._beat(),
                self._carry_out_all(),
                self._events.flush_often(),
                self._look_for_profiles(),
                attendants.watch(seat.run_dir, leadership.holds, self._events.emit, clock),
                self._gathering.write_often(),
                *([self._heed()] if seat.changes else []),
            )
        ]
        self._compactor = Compactor(seat.run_dir)
        self._herald = Herald(
            seat.run_dir,
            leadership.term,
            lambda why: self._events.emit("telemetry_failed", reason=why),
        )
        server.listen(
            Listener(leadership.term, self._take, self._collect, self._pass_on, self._look)
        )

    async def stop(self, *, resign: bool = False) -> None:
        """Ends all streams, writes the remaining events, and stops serving.

        With ``resign`` the claim says so: whoever sees it may contend at once.
        """
        over = not resign and not self._leadership.over.is_set()  # then the run has ended
        self._leadership.step_down()
        self._succession.close()
        self._compactor.stop()
        for task in self._tasks:
            task.cancel()
        self._server.streams.end()
        await self._server.stop(1.0)
        with suppress(OSError):
            if resign:
                await self._leadership.resign()
            await asyncio.to_thread(self._events.flush)
        await self._gathering.write()
        if over:
            self._herald.finish(self._machine.steps)
        await asyncio.to_thread(self._herald.close)
        self.ended.set()

    async def _withdraw(self) -> None:
        """Once somebody else leads, or may, sends everybody away to look for the new leader."""
        await self._leadership.over.wait()
        self._compactor.stop()
        self._server.streams.end()
        await self._server.stop()
        self.ended.set()

    # --- what happens -----------------------------------------------------------------

    def _take(self, event: signals.Event) -> None:
        if not self._leadership.holds():
            return  # its successor's to learn; and they leave because they are sent away
        if isinstance(event, signals.Joined) and (unfit := self._preflight.judge(event)):
            self._turn_away(event.member, unfit)
            return
        if isinstance(event, signals.Left) and self._succession.heir is not None:
            return  # it follows the next leader; if not, its silence shows
        if isinstance(event, signals.Drain) and event.member == self._seat.member:
            self._succession.begin(event)
        else:
            self._step(event)

    def _step(self, event: signals.Event) -> None:
        for command in self._machine.step(event, self._clock()):
            self._commands.put_nowait(command)
        self._succession.review()

    def _collect(self, member: MemberId, row: pb.Row) -> None:
        """Takes in one rank's row of a mesh; a mesh that is complete goes out as columns.

        Raises ValueError for what is no row.
        """
        world = self._machine.world
        if world is None or row.generation != world.generation:
            return
        rank, addresses = row.row.rank, row.row.addresses
        complete = self._meshes.add(world, row.scope, row.size, member, rank, addresses)
        for one, columns in complete.items():
            its = [pb.Addresses(rank=rank, addresses=column) for rank, column in columns.items()]
            message = pb.Columns(generation=row.generation, scope=row.scope, columns=its)
            self._server.streams.send(pb.FromCoordinator(columns=message), [one])

    def _pass_on(self, member: MemberId, start: pb.Start) -> None:
        """Tells all members of the world what rank 0's has decided about its start."""
        world = self._machine.world
        if world is None or start.generation != world.generation or member != world.members[0]:
            return
        self._server.streams.send(pb.FromCoordinator(start=start), world.members)

    def _turn_away(self, member: MemberId, unfit: Unfit) -> None:
        """A machine is not let in."""
        self._events.emit(
            "unfit",
            member=member.replica,
            incarnation=member.incarnation,
            reason=unfit.reason,
            then="replica" if unfit.again else "out",
        )
        release = signals.Release(member, unfit.reason, rejoin=unfit.again, broken=True)
        self._server.streams.send(order_to_message(release), [member])

    def _look(self, member: MemberId, told: pb.FromAgent) -> None:
        """Takes in what an agent has seen of its workers, or rank 0 of all."""
        world = self._machine.world
        match told.WhichOneof("body"):
            case "stacks":
                self._standstill.take(member, told.stacks)
            case "ranks" if world is not None and member == world.members[0]:
                for examine in self._stragglers.take(world, told.ranks, self._clock()):
                    message = pb.FromCoordinator(examine=examine)
                    self._server.streams.send(message, [members_by_rank(world)[examine.rank]])
            case "examined":
                self._stragglers.explained(member, told.examined)
            case "machine":
                self._gathering.take(member, told.machine)

    # --- what is to be done -----------------------------------------------------------

    async def _carry_out_all(self) -> None:
        """Carries out all commands in order, each only while this is the leader."""
        while self._leadership.holds():
            command = await self._commands.get()
            if isinstance(command, signals.Form):
                await self._leadership.announce(command.world.generation)
            if self._leadership.holds():
                self._carry_out(command)

    def _carry_out(self, command: signals.Command) -> None:
        streams = self._server.streams
        match command:
            case signals.Emit():
                fields = command.fields
                self._events.emit(command.event, **fields, term=self._leadership.term)
            case signals.Form(world, careful):
                timeouts = self._machine.timeouts(self._clock())
                message = world_to_message(world, streams.addresses)
                limit = timeouts.gloo_timeout
                form = pb.Form(world=message, gloo_timeout=limit, careful=careful)
                streams.send(pb.FromCoordinator(form=form), world.members)
            case signals.Pause(world) | signals.Abort(world):
                streams.send(order_to_message(command), world.members)
            case signals.Prove(member, peer):
                prove = pb.Prove(peer=str(peer), target=streams.proofs.get(peer, ""))
                streams.send(pb.FromCoordinator(prove=prove), [member])
            case signals.Replace(member) | signals.Save(member) | signals.Release(member):
                streams.send(order_to_message(command), [member])
            case signals.Finish():
                self._tasks.append(asyncio.create_task(self._finish(command)))

    async def _finish(self, command: signals.Finish) -> None:
        """Writes the outcome, if nobody else leads; sends everybody the one that counts."""
        while True:
            try:
                outcome = await asyncio.to_thread(self._write_outcome, command)
                break
            except OSError:  # a store that is away for a moment
                await asyncio.sleep(FINISH_AGAIN)
        if outcome is None:
            self._leadership.step_down()
            return
        finish = pb.Finish(state=str(outcome["state"]), reason=str(outcome["reason"]))
        self._server.streams.send_all(pb.FromCoordinator(finish=finish))
        self._herald.finish(self._machine.steps)

    def _write_outcome(self, command: signals.Finish) -> dict[str, Any] | None:
        """Returns the outcome that counts: another one's, if that came first. None: replaced.

        There is one outcome at most, whoever writes it. A leader that is deposed between the
        check and the write may still end the run; but what it says was reported to it by the
        one world of the run while it led, after which nobody can report otherwise: that the
        training is complete, or that the user's code has raised. Its successor finds the
        outcome, as every agent does, and ends by it.
        """
        if self._leadership.is_superseded():
            return None
        state: OutcomeState = "succeeded" if command.state == "succeeded" else "failed"
        run_dir, term = self._seat.run_dir, self._leadership.term
        try:
            self._events.flush()
        except OSError as error:
            if error.errno not in NO_ROOM:  # how it ended is worth more than how it went
                raise
        run_dir.end(state, command.reason, term=term, metrics=command.metrics)
        return run_dir.outcome()

    # --- time -------------------------------------------------------------------------

    async def _tick(self) -> None:
        while self._leadership.holds():
            due = self._clock() + TICK
            await asyncio.sleep(TICK)
            late = self._clock() - due
            if late > OVERSLEPT:  # this process did not run; what came meanwhile is not read yet
                self._machine.members.excuse(late)
            self._take(signals.Tick())
            self._explain(self._clock())
            self._inspect(self._clock())
            self._tell_stragglers(self._clock())
            self._have_profiled()

    async def _heed(self) -> None:
        """Takes in what the run is asked to be: how large worlds may be, and who is to leave."""
        known: Wanted | None = None
        while self._leadership.holds():
            with suppress(OSError):  # a store that is away for a moment
                found = await asyncio.to_thread(newest_wanted, self._seat.run_dir, known)
                if found is not None and found != known:
                    known = found
                    self._take(signals.Bounded(found.max_workers))
            leave = {str(number) for number in known.leave} if known is not None else set()
            until = self._clock() + WANTED_EVERY
            while self._leadership.holds() and self._clock() < until:
                # Those who come over from a former leader may be in the stop that it has asked for.
                self._send_away(leave)
                await asyncio.sleep(TICK)

    async def _look_for_profiles(self) -> None:
        """Takes in which steps somebody wants to see in detail."""
        profiles, run_dir = self._profiles, self._seat.run_dir
        while self._leadership.holds():
            try:
                wish = await asyncio.to_thread(find_wish, run_dir, profiles.following)
                if wish is not None:
                    profiles.take(wish)
                    continue
            except OSError:  # a store that is away for a moment
                pass
            except ValueError:  # nobody has asked for such
                profiles.take(None)
                continue
            await asyncio.sleep(PROFILES_EVERY)

    def _have_profiled(self) -> None:
        """Passes on which steps are to be profiled, to those who take them."""
        world = self._machine.world if self._machine.phase is Phase.RUNNING else None
        if world is not None:
            for member, profile in self._profiles.due(world, self._machine.steps):
                self._server.streams.send(pb.FromCoordinator(profile=profile), [member])

    def _send_away(self, jobs: set[str]) -> None:
        """Has the members of these jobs leave; the one that hosts this leader as the last."""
        own = self._seat.member
        there = self._machine.members.values()
        leaving = [it.id for it in there if it.id.job in jobs and it.state is not State.DRAINING]
        for member in sorted(leaving, key=lambda one: one == own):
            self._take(signals.Drain(member, "not wanted any more", math.inf))

    def _explain(self, now: float) -> None:
        """Says what is waited for, if nothing happens for some time."""
        wait = self._machine.explain(now)
        if wait is None or not self._telling.is_due(wait, now):
            return
        self._events.emit(
            "held_up",
            generation=self._machine.generation,
            step=self._machine.steps,
            reason=wait.what,
            seconds=round(now - wait.since, 1),
            limit=round(wait.until - wait.since, 1) if math.isfinite(wait.until) else None,
            then=wait.then or None,
        )

    def _inspect(self, now: float) -> None:
        """Asks what the workers do if there is no step for long, and tells what they answer."""
        machine = self._machine
        world = machine.world if machine.phase is Phase.RUNNING else None
        since, pace = machine.pace.progress_at, machine.pace.seconds
        timeouts = machine.timeouts(now)
        silent = any(one.quiet > PART * timeouts.hang for one in machine.members.values())
        times = since, pace, timeouts.stall
        inspect = self._standstill.due(world, *times, machine.steps, now, silent)
        if inspect is not None and world is not None:
            self._server.streams.send(pb.FromCoordinator(inspect=inspect), world.members)
        if (report := self._standstill.report(now)) is not None:
            self._tasks.append(asyncio.create_task(self._keep(report)))

    def _tell_stragglers(self, now: float) -> None:
        """Says who is slower than the others, and why; has one leave that stays so, if asked."""
        for one in self._stragglers.due(now):
            self._events.emit(
                "straggler",
                generation=self._machine.generation,
                step=self._machine.steps,
                member=one.member.replica,
                rank=one.rank,
                **one.figures,
            )
            if one.leaves:
                self._take(signals.Drain(one.member, one.why_it_leaves, math.inf, again=True))

    async def _keep(self, report: Report) -> None:
        """Writes down what the workers of a world that stands still do."""
        name: str | None = report.name
        store = self._seat.run_dir.store
        try:
            await asyncio.to_thread(store.write, report.name, report.text.encode())
        except OSError:  # the line is worth more than the stacks
            name = None
        self._events.emit(
            "standstill",
            generation=report.generation,
            step=report.step,
            seconds=round(report.seconds, 1),
            reason=report.reason,
            stacks=name,
        )

    async def _beat(self) -> None:
        """Shows those who may contend early that this leader lives."""
        beat = pb.FromCoordinator(beat=pb.Beat())
        while self._leadership.holds():
            self._server.streams.send(beat, self._succession.heirs())
            await asyncio.sleep(self._seat.limits.heartbeat)
