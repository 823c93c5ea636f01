"""An agent's link to whoever leads: finds the leader through the lease, or becomes it.

One stream to one leader at a time. When it breaks, or the lease moves, the link looks
for the leader again, and the agent introduces itself anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc

from trainer.coordinator import KEEPALIVE, MESSAGE_LIMIT, METHOD, SERVICE, Coordinator
from trainer.credentials import CHANNEL_OPTIONS, Credentials
from trainer.lease import Claim, Contend, Follow, Watch, newest_claim
from trainer.protocol import swell_pb2 as pb
from trainer.rundir import RunDirectory

LEASE_TIMEOUT = 5.0  # seconds without renewal after which another agent leads
LEASE_RENEW = 1.0  # seconds
PATIENCE = 3.0  # seconds for which the first lease is left to pool 0
LOOK_AGAIN = 0.2  # seconds

log = logging.getLogger("swell.agent")


class Refused(RuntimeError):
    """The leader does not accept this run's token."""


class Link:
    """Keeps an agent connected to the run's leader.

    Args:
        run_dir: where the lease is.
        credentials: the run's, which the leader is shown and must show.
        natural_leader: whether this agent should lead at the start: pool 0's does.
        coordinator: makes a coordinator for this agent to host, should it be its turn.
        introduce: called when a stream is open, to say what a new leader has to know.
        carry_out: called with every order.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        credentials: Credentials,
        natural_leader: bool,
        coordinator: Callable[[float], Coordinator],
        introduce: Callable[[], None],
        carry_out: Callable[[pb.FromCoordinator], Awaitable[None]],
    ) -> None:
        self.epoch = 0  # of the leader that is obeyed
        self._run_dir = run_dir
        self._credentials = credentials
        self._patience = 0.0 if natural_leader else PATIENCE
        self._make_coordinator = coordinator
        self._introduce = introduce
        self._carry_out = carry_out
        self._coordinator: Coordinator | None = None
        self._outbox: asyncio.Queue[pb.FromAgent] | None = None
        self._may_lead = True

    def say(self, **body: Any) -> None:
        """Sends a message; without a leader it is dropped: ``introduce`` says what matters."""
        if self._outbox is not None:
            self._outbox.put_nowait(pb.FromAgent(**body))

    def stop_contending(self) -> None:
        """This VM is about to go: another one is to lead next."""
        self._may_lead = False

    async def run(self) -> None:
        """Follows leaders until cancelled. Raises Refused when one refuses the token."""
        watch = Watch(LEASE_TIMEOUT, self._patience, time.monotonic())
        while True:
            try:
                newest = await asyncio.to_thread(newest_claim, self._run_dir)
            except OSError as error:
                log.warning("the run directory does not answer, trying again: %s", error)
                await asyncio.sleep(LEASE_RENEW)
                continue
            decision = watch.look(newest, time.monotonic())
            if isinstance(decision, Contend) and self._may_lead:
                await self._contend(decision.epoch, newest)
            elif isinstance(decision, Follow) and decision.claim.target:
                await self._follow(decision.claim.target, decision.claim.epoch, watch)
                await asyncio.sleep(LOOK_AGAIN)
            else:
                await asyncio.sleep(LOOK_AGAIN)

    async def close(self) -> None:
        """Stops the coordinator, if this agent hosts it."""
        if self._coordinator is not None:
            await self._coordinator.stop()

    async def _follow(self, target: str, epoch: int, watch: Watch) -> None:
        """Obeys the leader at ``target`` for as long as it answers and its lease holds."""
        self.epoch = epoch
        lost = asyncio.create_task(self._lease_lost(watch, epoch))
        obeying = asyncio.create_task(self._obey(target))
        try:
            await asyncio.wait([lost, obeying], return_when=asyncio.FIRST_COMPLETED)
            if obeying.done():
                obeying.result()
        finally:
            for task in (lost, obeying):
                task.cancel()
            await asyncio.gather(lost, obeying, return_exceptions=True)

    async def _lease_lost(self, watch: Watch, epoch: int) -> None:
        """Returns when the claim of ``epoch`` is stale or another one counts."""
        while True:
            await asyncio.sleep(LEASE_RENEW)
            with suppress(OSError):
                newest = await asyncio.to_thread(newest_claim, self._run_dir)
                decision = watch.look(newest, time.monotonic())
                if not isinstance(decision, Follow) or decision.claim.epoch != epoch:
                    return

    async def _contend(self, epoch: int, last: Claim | None) -> None:
        await self.close()
        coordinator = self._make_coordinator(LEASE_RENEW)
        generation, deposed = (last.generation, last.leader) if last else (0, None)
        leads = await coordinator.lead(epoch, generation, deposed)
        self._coordinator = coordinator if leads else None

    async def _obey(self, target: str) -> None:
        """Holds one stream to the coordinator at ``target`` until it breaks."""
        options = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            *CHANNEL_OPTIONS,
            *KEEPALIVE,
        ]
        outbox: asyncio.Queue[pb.FromAgent] = asyncio.Queue()

        async def requests() -> AsyncIterator[pb.FromAgent]:
            while True:
                yield await outbox.get()

        secure = self._credentials.for_client()
        async with grpc.aio.secure_channel(target, secure, options=options) as channel:
            join = channel.stream_stream(
                f"/{SERVICE}/{METHOD}",
                request_serializer=pb.FromAgent.SerializeToString,
                response_deserializer=pb.FromCoordinator.FromString,
            )
            call = join(requests(), metadata=self._credentials.metadata)
            self._outbox = outbox
            try:
                self._introduce()
                async for order in call:
                    await self._carry_out(order)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise Refused("the coordinator refuses this run's token") from None
                log.info("the coordinator at %s is gone: %s", target, error.details())
            finally:
                self._outbox = None
