"""The secret of a run: what is in it, and that a coordinator serves nobody without it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.hostile import Recorder
from trainer.protocol.authority import Authority, new_secret
from trainer.protocol.credentials import (
    LIMIT,
    Credentials,
    attempt_of,
    channel_options,
    find_credentials,
    fingerprint,
)
from trainer.rundir.names import ENV_TOKEN

AUTHORITY = Authority.new()
SECRET, OTHERS = AUTHORITY.issue(1), AUTHORITY.issue(2)
OURS, THEIRS = Credentials.parse(SECRET), Credentials.parse(new_secret())
SECOND = Credentials.parse(OTHERS)
PATIENCE = 600.0  # seconds; only a test that fails waits so long


def test_every_run_has_a_secret_of_its_own() -> None:
    assert OURS.token != THEIRS.token
    assert OURS.key != THEIRS.key
    assert OURS.certificate != THEIRS.certificate
    assert OURS.authority != THEIRS.authority
    assert len(OURS.token) == 64  # 256 bits in hex


def test_the_attempts_of_a_run_have_one_authority_and_token_and_each_its_own_key() -> None:
    assert (SECOND.token, SECOND.authority) == (OURS.token, OURS.authority)
    assert SECOND.key != OURS.key and SECOND.certificate != OURS.certificate
    assert (OURS.attempt, SECOND.attempt) == (1, 2)
    assert fingerprint(SECRET) == fingerprint(OTHERS) == fingerprint(AUTHORITY.text)
    again = Credentials.parse(Authority.parse(AUTHORITY.text).issue(3))
    assert (again.token, again.authority) == (OURS.token, OURS.authority)


def test_the_certificate_is_one_of_a_p256_key_and_names_no_address() -> None:
    certificate = x509.load_pem_x509_certificate(OURS.certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["job-1.swell"]
    ours = x509.load_pem_x509_certificate(OURS.authority)
    certificate.verify_directly_issued_by(ours)
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not limits.ca, "no attempt can vouch for another"


def test_whose_a_certificate_is_is_read_from_its_names() -> None:
    assert attempt_of([b"job-12.swell"]) == 12
    for names in ([], [b"job-.swell"], [b"job-1.swell.evil"], [b"job-1.swell", b"job-2.swell"]):
        assert attempt_of(names) is None


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=3650)])
def test_no_clock_and_no_length_of_a_run_makes_the_certificate_invalid(off: timedelta) -> None:
    certificate = x509.load_pem_x509_certificate(OURS.certificate)
    now = datetime.now(timezone.utc) + off
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc


def test_credentials_do_not_show_their_secrets() -> None:
    assert repr(OURS) == "Credentials(attempt=1)"
    assert repr(AUTHORITY) == "Authority()"


@given(st.text(max_size=2 * LIMIT) | st.lists(st.text("aA-_.=\n"), min_size=3).map(".".join))
def test_what_is_no_secret_is_refused_and_not_repeated(text: str) -> None:
    try:
        Credentials.parse(text)
    except ValueError as error:
        assert len(text) < 4 or text not in str(error)


@pytest.mark.parametrize(
    ("env", "run", "why"),
    [
        ({}, {}, "must be set"),
        ({ENV_TOKEN: SECRET}, {"id": "a"}, "is not the secret of the run a"),
        (
            {ENV_TOKEN: SECRET},
            {"id": "a", "authority_sha256": fingerprint("x")},
            "is not the secret",
        ),
        ({ENV_TOKEN: "x"}, {"authority_sha256": fingerprint("x")}, "is not a run's secret"),
    ],
)
def test_an_agent_without_its_runs_secret_says_so(
    env: dict[str, str], run: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why) as error:
        find_credentials(env, run)
    assert SECRET not in str(error.value)
    assert find_credentials({ENV_TOKEN: SECRET}, {"authority_sha256": fingerprint(SECRET)}) == OURS


@asynccontextmanager
async def echoing(credentials: Credentials) -> AsyncIterator[str]:
    """A server that gives back what it gets; yields its address."""

    async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Echo", {"Echo": handler}),)
    )
    port = server.add_secure_port("127.0.0.1:0", credentials.for_server())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def ask(target: str, credentials: Any, attempt: int = 1) -> bytes:
    """What the server answers; AioRpcError when it does not."""
    options = (*channel_options(attempt), ("grpc.use_local_subchannel_pool", 1))
    connect = (
        grpc.aio.insecure_channel(target, options=options)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=options)
    )
    async with connect as channel:
        call = channel.stream_stream("/Echo/Echo")()
        await call.write(b"hello")
        answer: bytes = await asyncio.wait_for(call.read(), PATIENCE)
        return answer


def forged_by(attempt: Credentials) -> tuple[bytes, bytes]:
    """A key, and the chain of a certificate for it that an attempt has issued."""
    key = serialization.load_pem_private_key(attempt.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = base64.b64decode(attempt.certificate.split(b"-----")[2])
    forged = Credentials.parse(Authority(key_der(key), certificate).issue(7))
    return forged.key, forged.certificate + attempt.certificate


def key_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


STRANGERS = {
    "plain text": None,
    "no certificate": grpc.ssl_channel_credentials(OURS.authority),
    "another run's certificate": THEIRS.for_client(),
    "another run's certificate, trusting the server's": grpc.ssl_channel_credentials(
        OURS.authority, THEIRS.key, THEIRS.certificate
    ),
    "our certificate without its key": grpc.ssl_channel_credentials(
        OURS.authority, THEIRS.key, OURS.certificate
    ),
    "a certificate that one of the run's attempts has issued": grpc.ssl_channel_credentials(
        OURS.authority, *forged_by(SECOND)
    ),
}


@pytest.mark.parametrize("credentials", STRANGERS.values(), ids=STRANGERS)
def test_a_coordinator_speaks_only_with_who_shows_the_runs_certificate(credentials: Any) -> None:
    async def body() -> None:
        async with echoing(OURS) as target:
            assert await ask(target, OURS.for_client()) == b"hello"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(target, credentials)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(body())


@pytest.mark.parametrize("spared", [None, 0, 400, 1000])
def test_whoever_stands_between_reads_nothing_and_changes_nothing(spared: int | None) -> None:
    """A bit that is flipped at the beginning, in the handshake or behind it ends the connection."""

    def change(before: int, data: bytes) -> bytes:
        if spared is None or before + len(data) <= spared:
            return data
        return data[:-1] + bytes([data[-1] ^ 1])

    async def body() -> None:
        async with echoing(OURS) as target:
            host, _, port = target.rpartition(":")
            between = Recorder((host, int(port)), change)
            target = f"{host}:{between.address[1]}"
            if spared is None:
                assert await ask(target, OURS.for_client()) == b"hello"
            else:
                with pytest.raises((grpc.aio.AioRpcError, asyncio.TimeoutError)):
                    await ask(target, OURS.for_client())
            between.close()
            for secret in (b"hello", OURS.token.encode(), OURS.key):
                assert secret not in between.sent

    asyncio.run(body())


def test_an_agent_does_not_speak_with_another_runs_coordinator() -> None:
    async def body() -> None:
        async with echoing(THEIRS) as target:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(target, OURS.for_client())
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(body())


def test_an_agent_speaks_only_with_the_attempt_that_it_expects() -> None:
    async def body() -> None:
        async with echoing(SECOND) as target:
            assert await ask(target, OURS.for_client(), attempt=2) == b"hello"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(target, OURS.for_client(), attempt=1)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(body())
