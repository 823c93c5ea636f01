"""The coordinator as a child process of the agent that hosts it: it can crash alone.

The agent keeps a child warm, also beside one that leads, because to import gRPC takes longer
than to take over. Both ends are here. They speak JSON lines over the child's standard input and
output: what it is to be (``Seat``, with the run's secret, which so is in no argv), then orders,
each with an ``op``; the child answers ``lead`` alone, with ``{"leads": …}``. It resigns and exits
when its input ends, that is, when its agent is gone, and exits when it leads no longer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainer.agent.replica import Replica
from trainer.agent.settings import Settings
from trainer.coordinator.coordinator import Coordinator
from trainer.coordinator.limits import Policy
from trainer.protocol.credentials import Credentials
from trainer.protocol.world import MemberId
from trainer.rundir.directory import ENV_TOKEN, RunDirectory
from trainer.worker.script import is_elastic

LINE_LIMIT = 2**20  # bytes
WARM_LIMIT = 10.0  # seconds in which the child is warm
CLOSE_GRACE = 3.0  # seconds to resign in


@dataclass(frozen=True)
class Seat:
    """What a coordinator has to know before there is anything to lead.

    Attributes:
        run_dir, member, address, expected: see trainer.coordinator.coordinator.
        secret: the run's; see trainer.protocol.credentials.
        limits: of the policy.
    """

    run_dir: str
    secret: str = field(repr=False)
    member: str
    address: str
    expected: int
    limits: dict[str, Any]

    @classmethod
    def of(
        cls,
        run_dir: RunDirectory,
        credentials: Credentials,
        member: MemberId,
        replica: Replica,
        run: Settings,
    ) -> Seat:
        """That of a replica's agent."""
        slots = replica.replicas * replica.slots
        if not run.task and not is_elastic(run.script, run.module):
            # A plain script cannot take it that the world changes: it is always the full one.
            run = replace(run, min_workers=slots, max_workers=slots)
        limits = asdict(run.policy(run_dir.store.is_local))
        return cls(run_dir.url, credentials.text, str(member), replica.address, slots, limits)

    @property
    def credentials(self) -> Credentials:
        """The run's."""
        return Credentials.parse(self.secret)

    @property
    def policy(self) -> Policy:
        """The limits of membership and of the lease."""
        return Policy(**self.limits)

    def coordinator(self) -> Coordinator:
        """A coordinator for it."""
        return Coordinator(
            RunDirectory(self.run_dir),
            self.policy,
            self.expected,
            self.credentials,
            self.address,
            MemberId.parse(self.member),
        )


class Host:
    """The agent's end.

    Args:
        seat: what the coordinator has to know.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._warm: Process | None = None
        self._starting: asyncio.Future[None] | None = None
        self._leading: Process | None = None
        self._epoch = 0  # that it leads, or led

    def leads(self, epoch: int) -> bool:
        """Whether the coordinator leads ``epoch``, as far as can be known here."""
        return self._epoch == epoch and _alive(self._leading)

    async def prepare(self) -> None:
        """Sees to it that there is a process beside the one that leads, if one does.

        Returns before it is warm.
        """
        if self._starting is None or (self._starting.done() and not _alive(self._warm)):
            self._starting = asyncio.ensure_future(self._start())
        # Whoever waits for it may be cancelled. A process that is cancelled while its pipes are
        # connected is waited for without end, by asyncio.
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        env = {key: value for key, value in os.environ.items() if key != ENV_TOKEN}
        self._warm = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trainer.agent.host"),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        _send(self._warm, **asdict(self._seat))

    async def lead(self, epoch: int, generation: int, deposed: MemberId | None) -> bool:
        """Has a coordinator claim ``epoch``; see Coordinator.lead. Returns whether it leads.

        If it does not answer, because the store does not, it is given up.
        """
        _kill(self._leading)  # whatever it is, its epoch is over
        await self.prepare()
        process = self._warm
        assert process is not None and process.stdout is not None
        predecessor = str(deposed) if deposed else ""
        _send(process, op="lead", epoch=epoch, generation=generation, deposed=predecessor)
        try:
            limit = WARM_LIMIT + self._seat.policy.lease_timeout
            answer = await asyncio.wait_for(process.stdout.readline(), limit)
        except asyncio.TimeoutError:
            answer = b""
        if not answer:
            _kill(process)
        leads = bool(answer) and json.loads(answer)["leads"] is True
        if leads:
            self._leading, self._warm, self._epoch = process, None, epoch
        return leads

    async def close(self, *, resign: bool = False) -> None:
        """Ends all processes; with ``resign`` the one that leads tells that nobody does now."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await asyncio.gather(_close(self._leading, resign=resign), _close(self._warm, resign=False))


def _alive(process: Process | None) -> bool:
    return process is not None and process.returncode is None


def _send(process: Process | None, **order: Any) -> None:
    if process is not None and process.returncode is None and process.stdin is not None:
        process.stdin.write(json.dumps(order).encode() + b"\n")


def _kill(process: Process | None) -> None:
    if process is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # see trainer.agent.process


async def _close(process: Process | None, *, resign: bool) -> None:
    if process is None:
        return
    _send(process, op="close", resign=resign)
    try:
        await asyncio.wait_for(process.wait(), CLOSE_GRACE)
    except asyncio.TimeoutError:
        _kill(process)
        await process.wait()


async def serve(orders: asyncio.StreamReader) -> None:
    """The child's end, until it leads no longer or is told to close."""
    seat = Seat(**json.loads(await orders.readline()))
    coordinator = seat.coordinator()
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
            leads = await coordinator.lead(order["epoch"], order["generation"], deposed)
            print(json.dumps({"leads": leads}), flush=True)
            if not leads:
                coordinator = seat.coordinator()
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
    """The child process."""
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


if __name__ == "__main__":
    main()
