"""Signs that a VM is about to be taken away, from real signals and a real metadata server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from tests.trainer.ranks import PATIENCE
from trainer.agent import preemption

Answer = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Metadata:
    """A metadata server that gives one scripted answer after another, the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._server: asyncio.Server | None = None
        self.requests: list[str] = []
        self.host = ""

    async def __aenter__(self) -> Metadata:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.host = f"{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.decode())
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            await answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def says(body: str, status: str = "200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nMetadata-Flavor: Google\r\n\r\n{body}".encode())
        await writer.drain()

    return answer


def sends(data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


def waits_for(event: asyncio.Event, then: Answer) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await then(writer)

    return answer


class Watching:
    """``preemption.watch`` at work, and what it told."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self.told: asyncio.Queue[str] = asyncio.Queue()

    async def __aenter__(self) -> Watching:
        self._task = asyncio.create_task(preemption.watch(self._env, self.told.put_nowait))
        await asyncio.sleep(0)  # until it listens to signals
        return self

    async def __aexit__(self, *error: object) -> None:
        assert not self._task.done(), self._task.exception()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def notice(self) -> str:
        return await asyncio.wait_for(self.told.get(), PATIENCE)


@pytest.fixture(autouse=True)
def without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "_RETRY", 0.0)
    monkeypatch.setattr(preemption, "_PAUSE", 0.0)


def told_by(*answers: Answer) -> list[str]:
    """The first notice that comes with these answers, and whatever was told besides."""

    async def body() -> list[str]:
        async with Metadata(*answers) as server:
            async with Watching({"GCE_METADATA_HOST": server.host}) as watching:
                notices = [await watching.notice()]
            while not watching.told.empty():
                notices.append(watching.told.get_nowait())
            return notices

    return asyncio.run(body())


def test_sigterm_is_a_notice() -> None:
    async def body() -> None:
        async with Watching({"GCE_METADATA_HOST": "127.0.0.1:1"}) as watching:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await watching.notice() == "SIGTERM"
            os.kill(os.getpid(), signal.SIGTERM)
            assert await watching.notice() == "SIGTERM"

    asyncio.run(body())


def test_when_watching_ends_sigterm_is_what_it_was() -> None:
    async def body() -> None:
        async with Watching({"GCE_METADATA_HOST": "127.0.0.1:1"}):
            pass

    asyncio.run(body())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("body", ["TRUE", "true", "TRUE\n"])
def test_a_vm_that_is_being_preempted_is_told_once(body: str) -> None:
    assert told_by(says(body)) == ["preemption notice"]


def test_a_long_poll_ends_with_the_notice() -> None:
    async def body() -> None:
        preempted = asyncio.Event()
        async with (
            Metadata(says("FALSE"), waits_for(preempted, says("TRUE"))) as server,
            Watching({"GCE_METADATA_HOST": server.host}) as watching,
        ):
            while len(server.requests) < 2:
                await asyncio.sleep(0)
            assert watching.told.empty()
            preempted.set()
            assert await watching.notice() == "preemption notice"
            first, second = server.requests
        assert first.startswith("GET /computeMetadata/v1/instance/preempted HTTP/1.1\r\n")
        assert "preempted?wait_for_change=true&timeout_sec=60 " in second
        assert "Metadata-Flavor: Google\r\n" in first

    asyncio.run(body())


def test_a_poll_says_which_value_is_known_so_that_no_change_is_missed() -> None:
    async def body() -> None:
        tagged = sends(
            b"HTTP/1.1 200 OK\r\nETag: 4f/e\r\nContent-Length: 5\r\n"
            b"Metadata-Flavor: Google\r\n\r\nFALSE"
        )
        async with (
            Metadata(tagged, says("TRUE")) as server,
            Watching({"GCE_METADATA_HOST": server.host}) as watching,
        ):
            assert await watching.notice() == "preemption notice"
            assert "timeout_sec=60&last_etag=4f/e " in server.requests[1]

    asyncio.run(body())


def test_a_poll_that_ends_without_change_is_followed_by_another() -> None:
    assert told_by(says("FALSE"), says("FALSE"), says("FALSE"), says("TRUE")) == [
        "preemption notice"
    ]


GARBAGE = {
    "not found": says("TRUE", "404 Not Found"),
    "error": says("TRUE", "503 Service Unavailable"),
    "nothing": sends(b""),
    "no head": sends(b"TRUE"),
    "half a head": sends(b"HTTP/1.1 200 OK\r\nMetadata"),
    "no status": sends(b"\r\n\r\nTRUE"),
    "bytes": sends(b"\xff\x00\xfe" * 50 + b"\r\n\r\n"),
    "an endless head": sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**18),
    "an empty body": says(""),
    "another body": says("perhaps"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_notice_and_the_server_is_asked_again(garbage: Answer) -> None:
    assert told_by(garbage, says("FALSE"), garbage, says("TRUE")) == ["preemption notice"]


def test_a_silent_server_is_given_up_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "_POLL", -4.9)  # so that a request may take 0.1 s

    async def silence(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    assert told_by(silence, says("TRUE")) == ["preemption notice"]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "127.0.0.1:port", ""])
def test_without_a_server_signals_are_still_heard(host: str) -> None:
    async def body() -> None:
        async with Watching({"GCE_METADATA_HOST": host}) as watching:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await watching.notice() == "SIGTERM"

    asyncio.run(body())


def test_a_server_that_holds_no_poll_is_not_asked_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        paused = asyncio.Event()

        async def pause(seconds: float) -> None:
            assert seconds == 77.0
            paused.set()
            await asyncio.Event().wait()

        async with Metadata(says("FALSE")) as server:
            async with Watching({"GCE_METADATA_HOST": server.host}):
                monkeypatch.setattr(preemption, "_PAUSE", 77.0)
                with monkeypatch.context() as patch:
                    patch.setattr("trainer.agent.preemption.asyncio.sleep", pause)
                    await asyncio.wait_for(paused.wait(), PATIENCE)
            assert len(server.requests) == 2

    asyncio.run(body())
