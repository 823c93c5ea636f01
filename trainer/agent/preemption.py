"""Learning that this VM is about to be taken away.

Two signs are watched: SIGTERM, and Compute Engine's metadata value
``instance/preempted``, which a long poll returns as soon as it turns TRUE. Whether
Vertex serves the metadata inside a training container could not be verified, so a
server that does not answer is simply not used.
Source: cloud.google.com/compute/docs/instances/create-use-preemptible
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

DEADLINE = 15.0  # seconds that a Spot VM may count on after a notice (of GKE's 30)
_RETRY = 5.0  # seconds between attempts at a metadata server that does not answer
_POLL = 60.0  # seconds of one long poll
_PAUSE = 1.0  # seconds before the next, if the server did not hold the last
_T = TypeVar("_T")
_PATH = "computeMetadata/v1/instance/preempted"


async def watch(env: Mapping[str, str], notify: Callable[[str], None]) -> None:
    """Calls ``notify(reason)`` for every sign; runs until cancelled."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, notify, "SIGTERM")
    try:
        await _watch_metadata(env.get("GCE_METADATA_HOST", "metadata.google.internal"), notify)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _watch_metadata(host: str, notify: Callable[[str], None]) -> None:
    """Polls the server at ``host[:port]``; after a notice there is nothing more to learn."""
    name, _, port = host.partition(":")
    loop = asyncio.get_running_loop()
    waiting = ""
    while True:
        began = loop.time()
        try:
            answer, etag = await _within(
                _POLL + 5, _get(name, int(port or 80), f"/{_PATH}{waiting}")
            )
        except (
            OSError,
            ValueError,
            asyncio.TimeoutError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ):
            waiting = ""
            await asyncio.sleep(_RETRY)
            continue
        if answer.strip().upper() == b"TRUE":
            notify("preemption notice")
            await asyncio.Event().wait()
        if waiting and loop.time() - began < _PAUSE:
            await asyncio.sleep(_PAUSE)
        # The tag says which value is known: a change between two polls is answered at once.
        waiting = f"?wait_for_change=true&timeout_sec={_POLL:.0f}"
        waiting += f"&last_etag={quote(etag)}" if etag else ""


async def _within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Like asyncio.wait_for, which before Python 3.12 can swallow a cancellation."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


async def _get(host: str, port: int, path: str) -> tuple[bytes, str]:
    """One GET in the metadata server's dialect: body and ETag. ValueError for other than 200.

    asyncio, because a thread in a long poll could not be stopped when the agent ends.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nMetadata-Flavor: Google\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ValueError(f"the metadata server answered {head[:40]!r}")
        return await reader.read(4096), _etag(head)
    finally:
        writer.close()


def _etag(head: bytes) -> str:
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "etag":
            return value.strip()
    return ""
