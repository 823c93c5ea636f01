"""Shows members of other jobs that this VM can be reached, and finds out whether they can be.

Both at the addresses at which a world's workers would meet, each side with the certificate of its
attempt. Why it is asked for is said in trainer.coordinator.admission.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from trainer.coordinator.admission import ANSWER
from trainer.coordinator.server import STRANGERS
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import Credentials, channel_options
from trainer.protocol.wire import PROOF_METHOD, PROOF_SERVICE
from trainer.protocol.world import MemberId

LIMIT = ANSWER / 3  # seconds for one proof
PINGS = 3  # the quickest is the latency
LOAD = b"\0" * 2**20  # sent to measure the bandwidth


class Proof:
    """Answers proofs of others, and gives those that a coordinator asks for.

    Args:
        credentials: of this agent's attempt.
        address: the IP address at which its peers reach this VM.
        say: called with each proof that was given.

    Attributes:
        port: where others are answered; 0 until it is ``open``.
    """

    def __init__(
        self, credentials: Credentials, address: str, say: Callable[[pb.Proved], None]
    ) -> None:
        self.port = 0
        self._credentials = credentials
        self._address = address
        self._say = say
        self._server: Any = None
        self._giving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begins to answer. Raises RuntimeError where this VM has no such address."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *STRANGERS])
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(PROOF_SERVICE, {PROOF_METHOD: handler}),)
        )
        secure = self._credentials.for_server()
        self.port = self._server.add_secure_port(f"{self._address}:0", secure)
        await self._server.start()

    async def close(self) -> None:
        """Answers no more, and gives up what is under way."""
        for task in self._giving:
            task.cancel()
        if self._server is not None:
            await self._server.stop(None)

    def give(self, order: pb.Prove) -> None:
        """Tries to connect to a member of another job, as it was ordered, and says how that went.

        Raises ValueError for an order about nobody.
        """
        attempt = MemberId.parse(order.peer).job
        if not attempt.isdecimal():
            raise ValueError(f"{order.peer} is of no job")
        task = asyncio.create_task(self._give(order, int(attempt)))
        self._giving.add(task)
        task.add_done_callback(self._giving.discard)

    async def _give(self, order: pb.Prove, attempt: int) -> None:
        address, _, _ = order.target.rpartition(":")
        proved = pb.Proved(peer=order.peer, address=self._address, peer_address=address)
        if not order.target:
            proved.failed = "it does not say where; is its image an older one?"
        else:
            try:
                proved.latency, proved.bandwidth = await self._measured(order.target, attempt)
            except grpc.aio.AioRpcError as error:
                proved.failed = str(error.details() or error.code().name)
        self._say(proved)

    async def _measured(self, target: str, attempt: int) -> tuple[float, float]:
        """Latency in seconds and bandwidth in bytes per second, by one connection to ``target``."""
        secure, until = self._credentials.for_client(), time.monotonic() + LIMIT
        async with grpc.aio.secure_channel(
            target, secure, options=channel_options(attempt)
        ) as channel:
            call = channel.unary_unary(f"/{PROOF_SERVICE}/{PROOF_METHOD}")

            async def seconds(data: bytes) -> float:
                began = time.monotonic()
                await call(
                    data, metadata=self._credentials.metadata, timeout=max(0.0, until - began)
                )
                return max(time.monotonic() - began, 1e-9)

            await seconds(b"")  # connects
            latency = min([await seconds(b"") for _ in range(PINGS)])
            return latency, len(LOAD) / await seconds(LOAD)

    async def _answer(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        if not self._credentials.shown_in(context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the run's token is needed")
        return b""
