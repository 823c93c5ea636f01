"""An agent reads its run's secret from Secret Manager: every answer that may come."""

from __future__ import annotations

import base64
import json

import pytest

from trainer.protocol.authority import new_secret
from trainer.protocol.credentials import Credentials, find_credentials, fingerprint
from trainer.protocol.secretmanager import ENDPOINT, ENV_ENDPOINT, read_secret
from trainer.rundir.names import ENV_TOKEN_SECRET
from trainer.rundir.retry import Backoff

VERSION = "projects/p/secrets/swell/versions/3"
PATIENT = Backoff(limit=10.0)


def answer(data: bytes) -> bytes:
    return json.dumps({"payload": {"data": base64.b64encode(data).decode()}}).encode()


class Server:
    """Gives these answers, one after another; an exception is raised."""

    def __init__(self, *answers: tuple[int, bytes] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, url: str) -> tuple[int, bytes]:
        self.asked.append(url)
        given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(given, OSError):
            raise given
        return given


def read(server: Server, env: dict[str, str] | None = None) -> str:
    return read_secret(VERSION, env or {}, server, PATIENT, lambda seconds: None)


def test_the_version_is_accessed() -> None:
    server = Server((200, answer(b"the secret")))
    assert read(server) == "the secret"
    assert server.asked == [f"{ENDPOINT}/v1/{VERSION}:access"]
    assert read(server, {ENV_ENDPOINT: "http://127.0.0.1:1"}) == "the secret"
    assert server.asked[1] == f"http://127.0.0.1:1/v1/{VERSION}:access"


def test_what_passes_is_tried_again() -> None:
    server = Server((503, b""), OSError("refused"), (429, b"{}"), (200, answer(b"the secret")))
    assert read(server) == "the secret"


@pytest.mark.parametrize("given", [(503, b""), OSError("who knows what is in here")])
def test_who_never_answers_is_given_up(given: tuple[int, bytes] | OSError) -> None:
    with pytest.raises(OSError, match=VERSION) as error:
        read(Server(given))
    assert "who knows" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(403, "secretAccessor"), (401, "secretAccessor"), (404, "no such"), (302, "302")],
)
def test_a_refusal_says_what_to_do(status: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        read(Server((status, b"")))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"{}", b'{"payload": 1}', b'{"payload": {"data": "c2VjcmV0*"}}',
     b'{"payload": {"data": 1}}', b"[" * 100_000, answer(b"\xff")],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_answer_is_not_repeated(body: bytes) -> None:
    with pytest.raises(ValueError, match="is not what it documents") as error:
        read(Server((200, body)))
    assert "c2VjcmV0" not in str(error.value)


@pytest.mark.parametrize("version", ["", "x", f"{VERSION}/../../x", f"{VERSION}\n", "http://evil/"])
def test_nothing_but_a_version_is_asked_for(version: str) -> None:
    server = Server((200, answer(b"x")))
    with pytest.raises(ValueError, match="is not projects/P/secrets"):
        read_secret(version, {}, server)
    assert not server.asked


def test_an_agent_gets_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = new_secret()
    monkeypatch.setattr(
        "trainer.protocol.credentials.read_secret", lambda version, env: {VERSION: secret}[version]
    )
    env, run = {ENV_TOKEN_SECRET: VERSION}, {"authority_sha256": fingerprint(secret)}
    assert find_credentials(env, run) == Credentials.parse(secret)
