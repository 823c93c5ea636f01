"""A coordinator's process: `python -m trainer.coordinator`, started by the agent that hosts it.

It speaks JSON lines with its agent over standard input and output: see trainer.agent.host. It
resigns and exits when its input ends, that is, when its agent is gone, and exits when it leads no
longer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from trainer.coordinator.coordinator import Coordinator
from trainer.coordinator.seat import LINE_LIMIT, Seat
from trainer.protocol.world import MemberId
from trainer.rundir.directory import RunDirectory


async def serve(orders: asyncio.StreamReader) -> None:
    """Carries out an agent's orders, until it leads no longer or is told to close."""
    seat = Seat(**json.loads(await orders.readline()))
    coordinator = _coordinator(seat)
    leads = resign = False
    ended = asyncio.ensure_future(coordinator.ended.wait())
    while True:
        reading = asyncio.ensure_future(orders.readline())
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            break
        line = reading.result()
        order: dict[str, Any] = json.loads(line) if line else {"op": "close", "resign": True}
        if order["op"] == "lead":
            deposed = MemberId.parse(order["deposed"]) if order["deposed"] else None
            leads = await coordinator.lead(order["term"], order["generation"], deposed)
            print(json.dumps({"leads": leads}), flush=True)
            if not leads:
                coordinator = _coordinator(seat)
        else:
            resign = order["resign"]
            break
    if leads:
        await coordinator.stop(resign=resign)


async def _serve_stdin() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await serve(reader)


def main() -> None:
    """The process."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a notice is for the agent, which decides
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        level=os.environ.get("SWELL_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # A thousand agents connect here, and strangers may, before they are turned away.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):  # a store that was away; its agent finds that it has gone
        asyncio.run(_serve_stdin())
    sys.stdout.flush()
    os._exit(0)  # whatever still waits for a store


def _coordinator(seat: Seat) -> Coordinator:
    return Coordinator(
        RunDirectory(seat.run_dir),
        seat.policy,
        seat.expected,
        seat.credentials,
        seat.address,
        MemberId.parse(seat.member),
    )


if __name__ == "__main__":
    main()
