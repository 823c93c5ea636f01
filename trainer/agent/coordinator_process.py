"""The agent's end of its coordinator, a child process that can crash alone.

The agent keeps a child warm, also beside one that leads, because to import gRPC takes longer
than to take over. They speak JSON lines over the child's standard input and output. First comes
its ``Seat``, so that the run's secret in it is in no argv; then orders, each with an ``op``. The
child says ``{"warm": true}`` when it has imported all that it needs, and answers only ``lead``,
with ``{"leads": …, "why": …}``. Its end is trainer.coordinator.__main__.

A child that is not warm yet is left to become it, while its agent looks whether somebody else
leads: on a machine that is slow enough, any limit would end each of them before, and nobody would
ever lead. One that does not answer, because the store does not, is given up; the next has longer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from contextlib import suppress
from dataclasses import replace
from typing import Any

from trainer.agent.replica import Replica
from trainer.agent.settings import Settings
from trainer.coordinator.seat import LINE_LIMIT, Seat
from trainer.protocol.credentials import Credentials
from trainer.protocol.world import MemberId
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_TOKEN
from trainer.worker.script import is_elastic

WARM_LIMIT = 10.0  # seconds that are waited for a child to be warm, before looking again
HANGS = 600.0  # seconds after which one that is not warm is given up
CLAIM_LIMIT = 10.0  # seconds beyond a lease's timeout in which it claims, at first
LONGER = 4  # times as long, at most
CLOSE_GRACE = 3.0  # seconds to resign in

log = logging.getLogger("swell.agent")


def seat_of(
    run_dir: RunDirectory,
    credentials: Credentials,
    member: MemberId,
    replica: Replica,
    run: Settings,
) -> Seat:
    """What the coordinator of a replica's agent has to know."""
    slots = replica.replicas * replica.slots * run.fleet
    program = run.program
    own = run.torchrun is None and not program.task
    if own and not is_elastic(program.script, program.module):
        # A plain script cannot take it that the world changes: it is always the full one.
        run = replace(run, min_workers=slots, max_workers=slots)
    limits = run.limits(run_dir.store.is_local)
    return Seat(run_dir, credentials, member, replica.address, slots, limits)


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
        self._term = 0  # that it leads, or led
        self._why_not = ""  # as last told
        self._is_warm: Process | None = None  # the one that has said so last
        self._started = 0.0  # when the newest was; monotonic seconds
        self._longer = 1

    def leads(self, term: int) -> bool:
        """Whether the coordinator leads ``term``, as far as can be known here."""
        return self._term == term and _alive(self._leading)

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
        self._started = time.monotonic()
        self._warm = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trainer.coordinator"),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        _send(self._warm, **self._seat.to_json())

    async def lead(self, term: int, generation: int, deposed: MemberId | None) -> bool:
        """Has a coordinator claim ``term``; see trainer.coordinator. Returns whether it leads.

        It does not, too, while its process still starts: then it can be asked again.
        """
        _kill(self._leading)  # whatever it is, its term is over
        await self.prepare()
        process = self._warm
        assert process is not None and process.stdout is not None
        leads, why_not = False, await self._cold(process)
        if not why_not:
            predecessor = str(deposed) if deposed else ""
            _send(process, op="lead", term=term, generation=generation, deposed=predecessor)
            leads, why_not = await self._answer(process)
        if why_not and why_not != self._why_not:
            log.warning(
                "term %d cannot be claimed here, trying again; until somebody leads, training goes "
                "on as it is and nobody joins: %s",
                term,
                why_not,
            )
        self._why_not = why_not
        if leads:
            self._leading, self._warm, self._term = process, None, term
        return leads

    async def _cold(self, process: Process) -> str:
        """Waits until a child is warm. Returns why it is not yet; "" when it is."""
        assert process.stdout is not None
        if process is not self._is_warm:
            try:
                if await asyncio.wait_for(process.stdout.readline(), WARM_LIMIT):
                    self._is_warm = process
            except asyncio.TimeoutError:
                if time.monotonic() - self._started > HANGS:
                    _kill(process)
                return "its coordinator's process is still starting"
        return ""

    async def _answer(self, process: Process) -> tuple[bool, str]:
        """Whether a warm child leads, as it was ordered to, and if it does not, why."""
        assert process.stdout is not None
        limit = (CLAIM_LIMIT + self._seat.limits.lease_timeout) * self._longer
        try:
            answer = await asyncio.wait_for(process.stdout.readline(), limit)
        except asyncio.TimeoutError:
            self._longer = min(2 * self._longer, LONGER)
            _kill(process)
            return False, f"the run directory has not said in {limit:g} s whose it is"
        if not answer:
            return False, "its coordinator's process has ended"
        self._longer = 1
        said = json.loads(answer)
        return said["leads"], said["why"]

    async def close(self, *, resign: bool = False) -> None:
        """Ends all processes; with ``resign`` the claim of the one that leads says so."""
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
            os.kill(process.pid, signal.SIGKILL)  # see trainer.agent.worker_process


async def _close(process: Process | None, *, resign: bool) -> None:
    if process is None:
        return
    _send(process, op="close", resign=resign)
    try:
        await asyncio.wait_for(process.wait(), CLOSE_GRACE)
    except asyncio.TimeoutError:
        _kill(process)
        await process.wait()
