"""Who holds the secret of an attempt that was given up: the run has another one since."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from launcher import home
from tests.launcher.recorded_run import record_run
from tests.trainer.protocol.test_credentials import ask, echoing
from trainer.protocol.credentials import Credentials, find_credentials, fingerprint
from trainer.rundir.names import ENV_TOKEN


def test_an_earlier_attempt_s_secret_lets_nobody_into_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    directory = record_run("a-run")
    old = home.issue_secret(directory, 1, alone=True)
    new = home.issue_secret(directory, 2, alone=True)
    with pytest.raises(ValueError, match="is not the secret of the run a-run"):
        find_credentials({ENV_TOKEN: old}, home.read_run(directory))
    ours = find_credentials({ENV_TOKEN: new}, home.read_run(directory))
    # It needs no agent of ours to ask.
    theirs = find_credentials({ENV_TOKEN: old}, {"authority_sha256": fingerprint(old)})

    async def body() -> None:
        async with echoing(ours) as coordinator:
            assert await ask(coordinator, ours.for_client(), attempt=2) == b"hello"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(coordinator, theirs.for_client(), attempt=2)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(coordinator, _old_key_for_the_new_certificate(theirs, ours), attempt=2)

    asyncio.run(body())


def _old_key_for_the_new_certificate(theirs: Credentials, ours: Credentials) -> object:
    """Trusts the new coordinator, whose certificate everybody sees who connects."""
    return grpc.ssl_channel_credentials(ours.authority, theirs.key, theirs.certificate)
