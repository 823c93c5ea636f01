"""The coordinator as a child process: it leads, is killed, and never outlives its agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.disks import disk, with_disks
from tests.processes import children
from tests.trainer.ranks import PATIENCE
from trainer.agent import coordinator_process
from trainer.agent.coordinator_process import Host
from trainer.coordinator.limits import Limits
from trainer.coordinator.seat import Seat
from trainer.protocol.authority import new_secret
from trainer.protocol.credentials import Credentials
from trainer.protocol.lease import Claim, create_claim, newest_claim
from trainer.protocol.world import MemberId
from trainer.rundir.directory import RunDirectory

TOKEN = new_secret()


def seat(run_dir: RunDirectory) -> Seat:
    member = MemberId("workerpool0-0", "a1")
    limits = Limits(lease_renew=0.1)
    return Seat(run_dir, Credentials.parse(TOKEN), member, "127.0.0.1", 1, limits)


def coordinators() -> list[psutil.Process]:
    return children(os.getpid(), "trainer.coordinator")


def child() -> psutil.Process:
    (found,) = coordinators()
    return found


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def test_it_leads_one_term_after_another(run_dir: RunDirectory) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        await host.prepare()
        assert not host.leads(1)
        assert await host.lead(1, 0, None)
        assert host.leads(1)
        claim = newest_claim(run_dir)
        assert claim is not None and claim.member == "workerpool0-0#a1"
        assert await host.lead(2, 0, None)
        assert host.leads(2) and not host.leads(1)
        await host.close()

    asyncio.run(body())


def test_one_that_crashes_has_another_beside_it(run_dir: RunDirectory) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        assert await host.lead(1, 0, None)
        leading = child()
        await host.prepare()
        leading.kill()
        await until(lambda: not host.leads(1))
        standby = child()
        assert await host.lead(2, 0, None)
        assert child() == standby
        await host.close()
        assert not coordinators()

    asyncio.run(body())


def test_a_term_that_is_taken_is_not_led(run_dir: RunDirectory) -> None:
    async def body() -> None:
        create_claim(run_dir, Claim(1, "other#0", "127.0.0.1:1"))
        host = Host(seat(run_dir))
        assert not await host.lead(1, 0, None)
        assert not host.leads(1)
        assert await host.lead(2, 0, None), "it can try again"
        await host.close()

    asyncio.run(body())


def test_one_that_starts_slowly_is_left_to_and_leads_when_it_is_asked_again(
    run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a machine that is slow enough any limit would end it, again and again."""

    async def body() -> None:
        host = Host(seat(run_dir))
        asked = 1
        assert not await host.lead(1, 0, None)
        starting = child()
        while not await host.lead(1, 0, None):
            asked += 1
        assert asked > 1 and child() == starting
        await host.close()

    monkeypatch.setattr(coordinator_process, "WARM_LIMIT", 0.001)
    asyncio.run(body())
    (said,) = [record.getMessage() for record in caplog.records if record.name == "swell.agent"]
    assert said.endswith("nobody joins: its coordinator's process is still starting")


def test_one_that_never_starts_is_given_up_in_the_end(
    run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        await host.prepare()
        hanging = child()
        hanging.suspend()
        assert not await host.lead(1, 0, None) and hanging.is_running()
        monkeypatch.setattr(coordinator_process, "HANGS", 0.0)
        assert not await host.lead(1, 0, None)
        await until(lambda: not hanging.is_running())
        monkeypatch.undo()
        while not await host.lead(1, 0, None):
            now = coordinators()  # none yet where the agent has not heard of the other's end
            assert hanging not in now and len(now) <= 1
        await host.close()

    monkeypatch.setattr(coordinator_process, "WARM_LIMIT", 0.05)
    asyncio.run(body())


@with_disks
def test_on_a_full_disk_one_leads_after_the_other(tmp_path: Path) -> None:
    async def body(run_dir: RunDirectory) -> None:
        first, second = Host(seat(run_dir)), Host(seat(run_dir))
        assert await first.lead(1, 0, None)
        full.fill()
        child().kill()
        assert await second.lead(2, 0, None)
        before = newest_claim(run_dir)
        await until(lambda: newest_claim(run_dir) != before)  # it renews its claim
        assert second.leads(2)
        assert await first.lead(3, 0, None)
        await first.close()
        await second.close()

    with disk(tmp_path / "disk") as full:
        asyncio.run(body(RunDirectory(str(full.path))))


@with_disks
def test_why_nobody_can_lead_is_told_once_and_it_leads_as_soon_as_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(run_dir: RunDirectory) -> None:
        host = Host(seat(run_dir))
        full.fill()  # before there was a claim, and with it room for the next
        assert not await host.lead(1, 0, None)
        warm = child()
        assert not await host.lead(1, 0, None)
        assert child() == warm, "it need not be started again"
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith("term 1 cannot be claimed here, trying again; until somebody leads")
        assert "No space left on device" in said
        full.make_room()
        assert await host.lead(1, 0, None)
        await host.close()

    with disk(tmp_path / "disk") as full:
        asyncio.run(body(RunDirectory(str(full.path))))


def test_a_coordinator_that_is_killed_leads_no_longer_and_can_be_had_again(
    run_dir: RunDirectory,
) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        assert await host.lead(1, 0, None)
        child().kill()
        await until(lambda: not host.leads(1))
        assert await host.lead(2, 0, None)
        await host.close()

    asyncio.run(body())


def test_one_that_is_replaced_exits_by_itself(run_dir: RunDirectory) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        assert await host.lead(1, 0, None)
        create_claim(run_dir, Claim(2, "other#0", "127.0.0.1:1"))
        await until(lambda: not host.leads(1))
        await host.close()

    asyncio.run(body())


@pytest.mark.parametrize("resign", [False, True])
def test_it_resigns_when_it_is_to(run_dir: RunDirectory, resign: bool) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        assert await host.lead(1, 0, None)
        await host.close(resign=resign)
        claim = newest_claim(run_dir)
        assert claim is not None and claim.resigned is resign

    asyncio.run(body())


def test_notices_are_for_the_agent(run_dir: RunDirectory) -> None:
    async def body() -> None:
        host = Host(seat(run_dir))
        assert await host.lead(1, 0, None)
        for number in (signal.SIGTERM, signal.SIGINT):
            child().send_signal(number)
        before = newest_claim(run_dir)
        await until(lambda: newest_claim(run_dir) != before)
        assert host.leads(1)
        await host.close()

    asyncio.run(body())


def test_the_token_is_in_no_argv_and_no_environment(run_dir: RunDirectory) -> None:
    async def body() -> None:
        os.environ["SWELL_TOKEN"] = TOKEN
        try:
            host = Host(seat(run_dir))
            assert await host.lead(1, 0, None)
            process = child()
            assert TOKEN not in " ".join(process.cmdline())
            assert TOKEN not in json.dumps(process.environ())
            await host.close()
        finally:
            del os.environ["SWELL_TOKEN"]

    asyncio.run(body())
    assert TOKEN not in repr(seat(run_dir))


AGENT = """
import asyncio, sys
from tests.trainer.agent.test_coordinator_process import Host, RunDirectory, child, seat

async def body():
    host = Host(seat(RunDirectory(sys.argv[1])))
    assert await host.lead(1, 0, None)
    print(child().pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(body())
"""


def test_a_coordinator_whose_agent_is_killed_resigns_and_exits(run_dir: RunDirectory) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, run_dir.url], stdout=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    agent.kill()
    agent.wait()
    agent.stdout.close()
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)
    claim = newest_claim(run_dir)
    assert claim is not None and claim.resigned
