"""A coordinator's process: `python -m trainer.coordinator`, started by the agent that hosts it.

It speaks JSON lines with its agent over standard input and output: see
trainer.agent.coordinator_process. It resigns and exits when its input ends, that is, when its agent
is gone, and exits when it leads no longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from trainer.coordinator.coordinator import Coordinator, lead
from trainer.coordinator.seat import LINE_LIMIT, Seat
from trainer.protocol.world import MemberId
from trainer.telemetry.logs import configure


async def serve(orders: asyncio.StreamReader) -> None:
    """Carries out an agent's orders, until it leads no longer or is to close."""
    seat = Seat.from_json(json.loads(await orders.readline()))
    print(json.dumps({"warm": True}), flush=True)
    coordinator: Coordinator | None = None
    while coordinator is None:
        order = await _next(orders)
        if order["op"] != "lead":
            return
        deposed = MemberId.parse(order["deposed"]) if order["deposed"] else None
        why = ""
        try:
            coordinator = await lead(seat, order["term"], order["generation"], deposed)
        except OSError as error:  # a store that is away, a disk that is full
            why = str(error)
        print(json.dumps({"leads": coordinator is not None, "why": why}), flush=True)
    ended = asyncio.ensure_future(coordinator.ended.wait())
    closing = asyncio.ensure_future(_next(orders))
    await asyncio.wait({ended, closing}, return_when=asyncio.FIRST_COMPLETED)
    await coordinator.stop(resign=not ended.done() and closing.result()["resign"])


async def _next(orders: asyncio.StreamReader) -> dict[str, Any]:
    line = await orders.readline()
    order: dict[str, Any] = json.loads(line) if line else {"op": "close", "resign": True}
    return order


async def _serve_stdin() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await serve(reader)


def main() -> None:
    """The process."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a notice is for the agent, which decides
        signal.signal(number, signal.SIG_IGN)
    configure(os.environ, sys.stderr, os.environ.get("HOSTNAME", ""))
    # A thousand agents connect here, and strangers may, before they are turned away.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):  # a store that was away; its agent finds that it has gone
        asyncio.run(_serve_stdin())
    sys.stdout.flush()
    os._exit(0)  # whatever still waits for a store


if __name__ == "__main__":
    main()
