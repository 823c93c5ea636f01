"""The secret of a run: what is in it, and that a coordinator serves nobody without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from trainer.protocol.credentials import (
    CHANNEL_OPTIONS,
    LIMIT,
    NAME,
    Credentials,
    find_credentials,
    new_secret,
)
from trainer.rundir.directory import token_sha256
from trainer.rundir.names import ENV_TOKEN

SECRET = new_secret()
OURS, THEIRS = Credentials.parse(SECRET), Credentials.parse(new_secret())
PATIENCE = 10.0


def test_every_run_has_a_secret_of_its_own() -> None:
    assert OURS.token != THEIRS.token
    assert OURS.key != THEIRS.key
    assert OURS.certificate != THEIRS.certificate
    assert len(OURS.token) == 64  # 256 bits in hex


def test_the_certificate_is_one_of_a_p256_key_and_names_no_address() -> None:
    certificate = x509.load_pem_x509_certificate(OURS.certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=3650)])
def test_no_clock_and_no_length_of_a_run_makes_the_certificate_invalid(off: timedelta) -> None:
    certificate = x509.load_pem_x509_certificate(OURS.certificate)
    now = datetime.now(timezone.utc) + off
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc


def test_credentials_do_not_show_their_secrets() -> None:
    assert repr(OURS) == "Credentials()"


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
        ({ENV_TOKEN: SECRET}, {"id": "a", "token_sha256": token_sha256("x")}, "is not the secret"),
        ({ENV_TOKEN: "x"}, {"token_sha256": token_sha256("x")}, "is not a run's secret"),
    ],
)
def test_an_agent_without_its_runs_secret_says_so(
    env: dict[str, str], run: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why) as error:
        find_credentials(env, run)
    assert SECRET not in str(error.value)
    assert find_credentials({ENV_TOKEN: SECRET}, {"token_sha256": token_sha256(SECRET)}) == OURS


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


async def ask(target: str, credentials: Any) -> bytes:
    """What the server answers; AioRpcError when it does not."""
    options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
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


STRANGERS = {
    "plain text": None,
    "no certificate": grpc.ssl_channel_credentials(OURS.certificate),
    "another run's certificate": THEIRS.for_client(),
    "another run's certificate, trusting the server's": grpc.ssl_channel_credentials(
        OURS.certificate, THEIRS.key, THEIRS.certificate
    ),
    "our certificate without its key": grpc.ssl_channel_credentials(
        OURS.certificate, THEIRS.key, OURS.certificate
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


def test_an_agent_does_not_speak_with_another_runs_coordinator() -> None:
    async def body() -> None:
        async with echoing(THEIRS) as target:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(target, OURS.for_client())
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(body())
