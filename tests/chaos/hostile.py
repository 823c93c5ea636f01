"""Peers that mean no good: what a stranger in the network can send to an open port."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import new_secret
from trainer.protocol.credentials import Credentials, channel_options
from trainer.protocol.wire import METHOD, SERVICE
from trainer.rundir.formats import PROTOCOL

Address = tuple[str, int]
PATIENCE = 60.0  # seconds; who is refused hears of it at once
SLOW = 60  # connections at once


def listening(pids: list[int]) -> dict[Address, int]:
    """The addresses at which these processes listen, and which one does."""
    owner: dict[str, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    owner[os.readlink(f"/proc/{pid}/fd/{fd}")] = pid
    found: dict[Address, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[at] for at in (1, 3, 9))
            pid = owner.get(f"socket:[{inode}]", 0)
            if state == "0A" and pid:
                host, port = local.split(":")
                found[_host(host), int(port, 16)] = pid
    return found


def _host(text: str) -> str:
    data = bytes.fromhex(text)
    if len(data) == 4:
        return socket.inet_ntop(socket.AF_INET, data[::-1])
    words = b"".join(data[at : at + 4][::-1] for at in range(0, 16, 4))
    return socket.inet_ntop(socket.AF_INET6, words).removeprefix("::ffff:")  # gRPC listens so


def garbage(address: Address, seed: int) -> None:
    """Noise, things that look like the beginning of something, and sudden ends."""
    chance = random.Random(seed)
    beginnings = (
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS greeting
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /global/0/3 HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\xff" * 64,
    )
    for beginning in beginnings:
        with contextlib.suppress(OSError), socket.create_connection(address, PATIENCE) as line:
            line.settimeout(0.2)
            line.sendall(beginning + chance.randbytes(chance.randrange(2000)))
            if chance.random() < 0.5:
                line.recv(100)


def slow(address: Address, seconds: float) -> None:
    """Many connections that say next to nothing, one byte after another."""
    lines: list[socket.socket] = []
    try:
        for _ in range(SLOW):
            with contextlib.suppress(OSError):
                lines.append(socket.create_connection(address, PATIENCE))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in lines:
                with contextlib.suppress(OSError):
                    line.settimeout(0.1)
                    line.send(b"\x16")
            time.sleep(0.5)
    finally:
        for line in lines:
            line.close()


def knock(address: Address, credentials: object, token: str | None) -> grpc.StatusCode:
    """Asks for a stream like an agent, and says hello as one. Returns how it ends."""
    target = f"{address[0]}:{address[1]}"
    options = (*channel_options(1), ("grpc.use_local_subchannel_pool", 1))
    channel = (
        grpc.insecure_channel(target, options)
        if credentials is None
        else grpc.secure_channel(target, credentials, options)
    )
    with channel:
        hello = pb.Hello(protocol=PROTOCOL, member="workerpool1-0#evil", slots=8, address="x")
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        join = channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=pb.FromAgent.SerializeToString,
            response_deserializer=pb.FromCoordinator.FromString,
        )
        call = join(iter([pb.FromAgent(hello=hello)]), timeout=PATIENCE, metadata=metadata)
        with contextlib.suppress(grpc.RpcError):
            for _ in call:
                break
        code: grpc.StatusCode = call.code()
        return code


def strangers(ours: Credentials) -> Iterator[tuple[str, object, str | None]]:
    """Everybody who lacks something: (what, certificate, token)."""
    theirs = Credentials.parse(new_secret())
    blind = grpc.ssl_channel_credentials(ours.authority, theirs.key, theirs.certificate)
    yield "no TLS, our token", None, ours.token
    yield "another certificate, our token", theirs.for_client(), ours.token
    yield "another certificate that trusts ours, our token", blind, ours.token
    yield "no certificate, our token", grpc.ssl_channel_credentials(ours.authority), ours.token
    yield "our certificate, no token", ours.for_client(), None
    yield "our certificate, another token", ours.for_client(), theirs.token


class Recorder:
    """Stands between a client and a server, and keeps what the client has sent.

    Args:
        server: where the server is.
        change: what becomes of what passes, given how much has passed before, and the next piece.
    """

    def __init__(
        self, server: Address, change: Callable[[int, bytes], bytes] = lambda before, data: data
    ) -> None:
        self.sent = b""
        self._change = change
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()
        threading.Thread(target=self._pass_on, daemon=True).start()

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server, keep=True)

    def _copy(self, source: socket.socket, target: socket.socket, keep: bool = False) -> None:
        with contextlib.suppress(OSError):
            passed = 0
            while data := source.recv(65536):
                if keep:
                    self.sent += data
                target.sendall(self._change(passed, data))
                passed += len(data)
        for line in (source, target):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def replay(address: Address, sent: bytes) -> bytes:
    """Sends what somebody else has sent before. Returns what is answered."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(address, PATIENCE) as line:
        line.settimeout(2.0)
        line.sendall(sent)
        while data := line.recv(65536):
            answer += data
    return answer


def tls_greeting(address: Address, ours: Credentials) -> None:
    """Shakes hands as one of the run, and then says nothing in HTTP/2."""
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(OSError, ssl.SSLError):
        file.write(ours.key + ours.certificate)
        file.flush()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=ours.certificate.decode())
        context.load_cert_chain(file.name)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(address, PATIENCE) as line,
            context.wrap_socket(line, server_hostname=None) as secure,
        ):
            secure.sendall(b"\0" * 5000)
            secure.settimeout(1.0)
            secure.recv(100)


def at_once(*attacks: Callable[[], object]) -> None:
    """Carries out attacks side by side; one that fails fails here."""
    failed: list[BaseException] = []

    def carry_out(attack: Callable[[], object]) -> None:
        try:
            attack()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=carry_out, args=(one,)) for one in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
