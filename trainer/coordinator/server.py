"""The gRPC service of a coordinator: each agent holds one stream to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import grpc
from google.protobuf.message import DecodeError

from trainer.protocol import signals
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.credentials import Credentials, attempt_of
from trainer.protocol.wire import (
    KEEPALIVE,
    MESSAGE_LIMIT,
    METHOD,
    SERVICE,
    age_of,
    event_from_message,
    misfit,
    shown_in,
    slots_of,
    world_from_message,
)
from trainer.protocol.world import MemberId
from trainer.rundir.attempts import GivenUp

# Whoever has not shown the run's certificate and token gets little, and not for long.
STRANGERS = (
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_allowed_incoming_connections", 8192),
    ("grpc.max_concurrent_streams", 4),  # of one connection; an agent has one
    ("grpc.max_metadata_size", 4096),  # bytes; an agent sends 200
    ("grpc.absolute_max_metadata_size", 4096),
)
HELLO_WAIT = 10.0  # seconds for the first message of a stream

log = logging.getLogger("swell.coordinator")

Stream = asyncio.Queue[bytes | None]  # serialised: what goes to all members is made once


class Streams:
    """The agents that are connected, by the members that they are.

    Attributes:
        addresses: where members live, as far as any agent has said.
        proofs: where they answer the agents of other jobs, as ``address:port``.
    """

    def __init__(self) -> None:
        self.addresses: dict[MemberId, str] = {}
        self.proofs: dict[MemberId, str] = {}
        self._streams: dict[MemberId, Stream] = {}

    def open(self, member: MemberId) -> Stream:
        """Returns the stream to a member; an older one is ended, for its agent gave that up."""
        stream: Stream = asyncio.Queue()
        if member in self._streams:
            self._streams[member].put_nowait(None)
        self._streams[member] = stream
        return stream

    def close(self, member: MemberId, stream: Stream) -> bool:
        """A stream has ended. Returns whether the member has none any more."""
        newest = self._streams.get(member) is stream
        if newest:
            del self._streams[member]
        return newest

    def first(self, count: int, *, but: MemberId) -> list[MemberId]:
        """Those who have been connected longest, without ``but``."""
        return list(islice((one for one in self._streams if one != but), count))

    def send(self, message: pb.FromCoordinator, members: Iterable[MemberId]) -> None:
        """Sends a message to those of ``members`` that are connected."""
        data = message.SerializeToString()
        for member in members:
            stream = self._streams.get(member)
            if stream is not None:
                stream.put_nowait(data)

    def send_all(self, message: pb.FromCoordinator) -> None:
        """Sends a message to everybody who is connected."""
        self.send(message, self._streams)

    def end(self) -> None:
        """Ends all streams, after what is on its way."""
        for stream in self._streams.values():
            stream.put_nowait(None)


@dataclass(frozen=True)
class Listener:
    """Who hears what agents say.

    Attributes:
        term: the one that it leads.
        take: called with every event.
        collect: called with a row of addresses, and whose it is. Raises ValueError for no row.
        pass_on: called with how processes are to start, and who says so.
        look: called with what a member's workers do, and why one is slow, which was asked; and
            with what all ranks spend.
    """

    term: int
    take: Callable[[signals.Event], None]
    collect: Callable[[MemberId, pb.Row], None]
    pass_on: Callable[[MemberId, pb.Start], None]
    look: Callable[[MemberId, pb.FromAgent], None]


class Server:
    """Serves agents. Whoever comes before there is a listener waits.

    Args:
        credentials: of an attempt of the run; every agent must show some.
        address: the IP address to listen on.
        given_up: whose agents are not let in.

    Attributes:
        target: where it listens, as ``address:port``.
        streams: to the agents that are connected.
    """

    def __init__(self, credentials: Credentials, address: str, given_up: GivenUp) -> None:
        self.streams = Streams()
        self._credentials = credentials
        self._given_up = given_up
        self._listener: asyncio.Future[Listener] = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Future[None] | None = None
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
        port = self._server.add_secure_port(f"{address}:0", credentials.for_server())
        self.target = f"{address}:{port}"

    async def start(self) -> None:
        """Begins to serve."""
        await self._server.start()

    def listen(self, listener: Listener) -> None:
        """From now on ``listener`` hears what agents say."""
        self._listener.set_result(listener)

    async def stop(self, grace: float | None = None) -> None:
        """Stops serving; streams have ``grace`` seconds to end by themselves."""
        # Once, and shielded: who waits here may be cancelled, and gRPC takes that for its own end.
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._server.stop(grace))
        await asyncio.shield(self._stopping)

    async def _join(
        self,
        requests: AsyncIterator[pb.FromAgent],
        context: grpc.aio.ServicerContext[pb.FromAgent, bytes],
    ) -> None:
        """One agent's stream, from hello to the end."""
        if not self._credentials.shown_in(context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the run's token is needed")
        attempt = attempt_of(context.auth_context().get("x509_subject_alternative_name", ()))
        if attempt is None or await self._given_up.includes(attempt):
            log.warning("an agent of attempt %s is turned away: the run goes on without", attempt)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the attempt was given up")
        listener = await asyncio.shield(self._listener)
        try:
            first = await asyncio.wait_for(anext(requests), HELLO_WAIT)
            hello = first.hello
            if first.HasField("hello") and (why := misfit(hello)):
                log.warning("%.80r is turned away: %s", hello.member, why)
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, why)
            member = MemberId.parse(hello.member)
            if member.job not in ("", str(attempt)):
                raise ValueError(f"{member} has the certificate of attempt {attempt}")
            world = world_from_message(hello.world) if hello.HasField("world") else None
        except (StopAsyncIteration, ValueError, DecodeError, asyncio.TimeoutError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream begins with a hello")
            return
        if hello.term not in (0, listener.term):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this is another term")
            return
        stream = self.streams.open(member)
        self.streams.addresses[member] = hello.address
        if hello.proof_port:
            self.streams.proofs[member] = f"{hello.address}:{hello.proof_port}"
        if world is not None:
            for one in hello.world.slots:
                self.streams.addresses.setdefault(MemberId.parse(one.member), one.address)
        own = slots_of(hello), world, age_of(hello), shown_in(hello)
        listener.take(signals.Joined(member, *own))
        hearing = asyncio.create_task(_hear(listener, member, requests, stream))
        try:
            while (data := await stream.get()) is not None:
                await context.write(data)
        finally:
            hearing.cancel()
            if self.streams.close(member, stream):
                listener.take(signals.Left(member, "its connection broke"))


async def _hear(
    listener: Listener, member: MemberId, requests: AsyncIterator[pb.FromAgent], stream: Stream
) -> None:
    try:
        async for message in requests:
            kind = message.WhichOneof("body")
            if kind == "row":
                listener.collect(member, message.row)
            elif kind == "start":
                listener.pass_on(member, message.start)
            elif kind in ("stacks", "ranks", "examined", "machine"):
                listener.look(member, message)
            elif (event := event_from_message(member, message)) is not None:
                listener.take(event)
    except (ValueError, DecodeError, grpc.RpcError, asyncio.CancelledError):
        pass  # a broken connection, or something that is no agent: it leaves
    finally:
        stream.put_nowait(None)
