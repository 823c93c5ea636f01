"""An agent's link to whoever leads: finds the leader through the lease, or becomes it.

One stream to one leader at a time. When it breaks, or the lease moves, the link looks
for the leader again, and the agent introduces itself anew.

When the coordinator's VM is lost, nobody has to wait until its lease is stale. The leader
shows some of its followers that it lives; one of them that hears nothing any more, and sees that
the lease is not renewed either, contends early. (A follower that is only cut off from a leader
that lives sees it renewed.) If just the coordinator has died, its own agent starts it again at
once. A coordinator whose VM is drained asks another agent to contend, and that agent's
coordinator finds the running world as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc

from trainer.agent.coordinator_process import Host
from trainer.agent.reach import Reach
from trainer.coordinator.seat import Seat
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import channel_options
from trainer.protocol.lease import Claim, Contend, Follow, Wait, Watch, newest_claim
from trainer.protocol.wire import KEEPALIVE, MESSAGE_LIMIT, METHOD, SERVICE
from trainer.rundir.attempts import GivenUp, alone
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import ANOTHER_VERSION
from trainer.rundir.usererror import UserError

PATIENCE = 10.0  # seconds for which the first lease is left to pool 0, which may start last
LOOK_AGAIN = 0.05  # seconds, after a stream has ended
WARM_UP = 10.0  # seconds after a world has formed; before, its spares have the processors
REVIVALS = 10.0  # seconds in which a coordinator that has died is started again only once

log = logging.getLogger("swell.agent")

Decision = Follow | Contend | Wait


class Refused(UserError, RuntimeError):
    """The leader does not accept this agent: its token, or its version."""


class Link:
    """Keeps an agent connected to the run's leader.

    Args:
        run_dir: where the lease is.
        seat: of this agent's coordinator, should it be its turn to lead.
        natural_leader: whether this agent should lead at the start: pool 0's does.
        introduce: called when a stream is open, to say what a new leader has to know.
        carry_out: called with every order that is not the link's own.
        unreached: called with the claim of a leader that lives and is out of reach, and why.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        seat: Seat,
        natural_leader: bool,
        introduce: Callable[[], None],
        carry_out: Callable[[pb.FromCoordinator], Awaitable[None]],
        unreached: Callable[[Claim, str], None] = lambda claim, why: None,
    ) -> None:
        self.term = 0  # of the leader that is obeyed
        self._run_dir = run_dir
        self._given_up = GivenUp(run_dir)
        self._credentials = seat.credentials
        self._member = seat.member
        self._limits = limits = seat.limits
        self._look_every = limits.lease_renew / 2
        self._host = Host(seat)
        self._introduce = introduce
        self._carry_out = carry_out
        self._unreached = unreached
        self._reach = Reach(seat.credentials.attempt)
        self._outbox: asyncio.Queue[pb.FromAgent] | None = None
        self._may_lead = True
        self._newest: Claim | None = None  # as last seen
        self._broken = False  # the stream has ended, and there is no other
        self._warming: asyncio.Future[None] | None = None
        self._beat_at: float | None = None  # when the leader last showed that it lives
        self._revived = float("-inf")
        self._watch = Watch(
            limits.lease_timeout,
            limits.lease_doubt,
            limits.lease_renew,
            0.0 if natural_leader else PATIENCE,
            time.monotonic(),
        )

    def say(self, **body: Any) -> None:
        """Sends a message; without a leader it is dropped: ``introduce`` says what matters."""
        if self._outbox is not None:
            self._outbox.put_nowait(pb.FromAgent(**body))

    def renounce(self) -> None:
        """This VM is about to go: its agent contends no more."""
        self._may_lead = False

    async def run(self) -> None:
        """Follows leaders until cancelled. Raises Refused when one turns this agent away."""
        decision = await self._look()
        while True:
            if isinstance(decision, Contend) and self._may_lead:
                await self._contend(decision.term)
                decision = await self._look()
            elif isinstance(decision, Follow) and decision.claim.target:
                decision = await self._follow(decision.claim)
            else:
                await asyncio.sleep(self._look_every)
                decision = await self._look()

    async def close(self, *, resign: bool) -> None:
        """Stops the coordinator, if this agent hosts it; ``resign`` if the run goes on."""
        if self._warming is not None:
            self._warming.cancel()
        await self._host.close(resign=resign)

    def _warm_up(self) -> None:
        """Has a coordinator at hand in a while. Without one it takes a second longer to lead."""

        async def later() -> None:
            await asyncio.sleep(WARM_UP)
            await self._host.prepare()

        if self._warming is None or self._warming.done():
            self._warming = asyncio.ensure_future(later())

    # --- the lease ------------------------------------------------------------------

    async def _look(self) -> Decision:
        """Looks at the newest claim, and decides. While the store is away there is no leader."""
        try:
            newest = self._newest = await asyncio.to_thread(newest_claim, self._run_dir)
        except OSError as error:
            log.warning("the run directory does not answer, trying again: %s", error)
            return Wait()
        now = time.monotonic()
        if newest is not None and self._reach.look(newest, now):
            log.warning(
                "%s at %s is out of reach: %s", newest.member, newest.target, self._reach.why
            )
            self._unreached(newest, self._reach.why)
        orphan = (
            newest is not None
            and newest.leader == self._member
            and not self._host.leads(newest.term)
            and now - self._revived > REVIVALS
        )
        orphan = orphan or (newest is not None and await self._disowned(newest))
        decision = self._watch.look(newest, now, silent=self._silent(now), orphan=orphan)
        if isinstance(decision, Contend) and not await self._may_contend(now):
            return Wait()
        return decision

    async def _may_contend(self, now: float) -> bool:
        if self._reach.may_contend(now):
            return True
        try:  # there may be nobody left whom it could be out of reach of
            return await asyncio.to_thread(alone, self._run_dir, self._credentials.attempt)
        except OSError:
            return False

    async def _disowned(self, claim: Claim) -> bool:
        """Whether its holder's attempt was given up: the run goes on without that."""
        own = claim.attempt == self._credentials.attempt
        return not own and await self._given_up.includes(claim.attempt)

    def _silent(self, now: float) -> bool:
        silent = self._beat_at is not None and now - self._beat_at > self._limits.suspicion
        return silent or self._broken

    async def _contend(self, term: int) -> None:
        last = self._newest
        generation, deposed = (last.generation, last.leader) if last else (0, None)
        if deposed == self._member:
            self._revived, deposed = time.monotonic(), None
        if await self._host.lead(term, generation, deposed):
            log.info("the coordinator here leads, in term %d", term)
        else:
            await asyncio.sleep(LOOK_AGAIN)

    async def _follow(self, claim: Claim) -> Decision:
        """Obeys a leader for as long as it answers and its lease holds. Returns what is next."""
        if claim.term != self.term:
            self._beat_at, self._broken = None, False
        self.term = claim.term
        lost = asyncio.create_task(self._lease_lost(claim.term))
        obeying = asyncio.create_task(self._obey(claim))
        try:
            await asyncio.wait([lost, obeying], return_when=asyncio.FIRST_COMPLETED)
            if obeying.done():
                obeying.result()
            if lost.done():
                return lost.result()
        finally:
            for task in (lost, obeying):
                task.cancel()
            await asyncio.gather(lost, obeying, return_exceptions=True)
        await asyncio.sleep(LOOK_AGAIN)
        return await self._look()

    async def _lease_lost(self, term: int) -> Decision:
        """Returns the decision by which the claim of ``term`` is not to be followed any more."""
        while True:
            await asyncio.sleep(self._look_every)
            decision = await self._look()
            follows = isinstance(decision, Follow) and decision.claim.term == term
            if not follows and not isinstance(decision, Wait):
                return decision

    # --- the stream -----------------------------------------------------------------

    async def _obey(self, claim: Claim) -> None:
        """Holds one stream to a leader until it breaks; succeeds it if it is called to."""
        options = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            *channel_options(claim.attempt),
            *KEEPALIVE,
        ]
        outbox: asyncio.Queue[pb.FromAgent] = asyncio.Queue()
        secure = self._credentials.for_client()
        async with grpc.aio.secure_channel(claim.target, secure, options=options) as channel:
            join = channel.stream_stream(
                f"/{SERVICE}/{METHOD}",
                request_serializer=pb.FromAgent.SerializeToString,
                response_deserializer=pb.FromCoordinator.FromString,
            )
            call = join(metadata=self._credentials.metadata)
            sending = asyncio.create_task(_send_all(outbox, call))
            reaching = asyncio.create_task(self._reaching(channel, claim))
            self._outbox = outbox
            try:
                self._introduce()
                async for order in call:
                    kind = order.WhichOneof("body")
                    if kind == "beat":
                        self._beat_at, self._broken = time.monotonic(), False
                    elif kind == "succeed":
                        if self._may_lead:  # on this stream: that it ends would be a loss
                            self._newest = None  # its holder is not lost, and none suspects it
                            await self._contend(claim.term + 1)
                    else:
                        self._broken = False
                        await self._carry_out(order)
                        may_follow = self._beat_at is not None or self._host.leads(claim.term)
                        if kind == "form" and may_follow and self._may_lead:
                            self._warm_up()  # it may have to lead
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise Refused(
                        "SW4010",
                        f"the coordinator refuses this agent: {error.details()}; the run goes on "
                        "without its attempt",
                    ) from None
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise Refused(
                        ANOTHER_VERSION,
                        f"the coordinator of {claim.member} refuses this agent: {error.details()}",
                    ) from None
                self._reach.why = str(error.details())
                if not self._broken:  # else it was said
                    log.info("the coordinator at %s is gone: %s", claim.target, error.details())
            finally:
                reaching.cancel()
                sending.cancel()
                self._outbox = None
                self._broken = True

    async def _reaching(self, channel: grpc.aio.Channel, claim: Claim) -> None:
        """Each side has shown the other its certificate."""
        await channel.channel_ready()
        self._reach.connected(claim)


async def _send_all(outbox: asyncio.Queue[pb.FromAgent], call: Any) -> None:
    """Sends what is to be said until cancelled, or until the stream has ended.

    An iterator of requests would do so, too; but grpc leaves it waiting when the stream ends in the
    middle of one, and asyncio complains of that in the replica's log.
    """
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # whoever reads is told why
        while True:
            await call.write(await outbox.get())
