"""The Spot market at work, with VMs that are really started."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.jobs.registry import Registry
from launcher.emulator.market.exchange import Exchange
from launcher.emulator.market.market import Bid
from launcher.emulator.market.traces import read_trace
from launcher.job.marketfile import Capacity, Market
from tests.launcher.emulator.running import Emulator, pool, wait_for

Start = Callable[..., Emulator]

TRACE = Path(__file__).parents[3] / "data" / "traces" / "gcp-a100-us-east1-b.txt"
MACHINE = "a2-highgpu-1g"
SLEEP = "exec sleep 1000"
SPOT = {"scheduling": {"strategy": "SPOT"}}


def on_market(start: Start, folder: Path, **market: Any) -> Emulator:
    path = folder / "market.json"
    path.write_text(json.dumps(market))
    return start("--market", str(path))


def capacity(**vms: int) -> list[dict[str, Any]]:
    """Capacity over time; ``at_5s=3`` is three VMs from second 5 on."""
    counts = {moment.removeprefix("at_"): count for moment, count in vms.items()}
    return [{"machine": MACHINE, "vms": counts}]


def runs(pid: int | None) -> bool:
    """Whether a process is there and not stopped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "RSD"
    except OSError:
        return False


Samples = list[tuple[float, int]]


def ride(state: Path, market: Market, samples: Samples, wanted: int) -> list[set[str]]:
    """Runs a job of ``wanted`` VMs through a market whose time we set.

    Returns which of its VMs ran at each sample, once their number was right.
    """
    time_of_day = 0.0

    async def go() -> list[set[str]]:
        nonlocal time_of_day
        registry = Registry(state, market, clock=lambda: time_of_day)
        spec = {"workerPoolSpecs": [pool(SLEEP), pool(SLEEP, wanted - 1)], **SPOT}
        job = registry.create("local", "local", {"displayName": "a job", "jobSpec": spec})

        def running() -> set[str]:
            replicas = registry.replicas(job["name"])
            return {replica["replica"] for replica in replicas if runs(replica["pid"])}

        history = []
        for moment, count in samples:
            time_of_day = (moment + 0.001) / market.speed  # rounding must not make it earlier
            registry.look_at_the_market()
            for _ in range(3000):
                await asyncio.sleep(0.01)
                if len(running()) == min(count, wanted):
                    break
            history.append(running())
            assert len(history[-1]) == min(count, wanted), f"{moment} s into the market"
        assert job["state"] == "JOB_STATE_RUNNING"
        await registry.close()
        return history

    return asyncio.run(go())


@pytest.mark.parametrize("machines", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_27_hours_of_a_real_market(tmp_path: Path, machines: int) -> None:
    """With a VM for so many of its machines."""
    rows = [line.rpartition(",") for line in TRACE.read_text().splitlines()]
    trace = tmp_path / "trace.txt"
    trace.write_text("".join(f"{when}, {int(count) // machines}\n" for when, _, count in rows))
    samples = read_trace(trace)
    entry = Capacity(machine=MACHINE, trace=str(trace))
    market = Market(capacity=[entry], notice=None, speed=10_000, seed=3)
    wanted = samples[0][1]
    vms = ride(tmp_path / "state", market, samples, wanted)
    assert [len(at) for at in vms] == [min(count, wanted) for _, count in samples]


def test_the_same_seed_takes_the_same_vms(tmp_path: Path) -> None:
    samples = [(0.0, 6), (60.0, 3), (120.0, 5), (180.0, 2)]
    vms = {timedelta(seconds=moment): count for moment, count in samples}
    notice = timedelta(milliseconds=50)

    def history(name: str, seed: int) -> list[set[str]]:
        market = Market(capacity=[Capacity(machine=MACHINE, vms=vms)], notice=notice, seed=seed)
        return ride(tmp_path / name, market, samples, wanted=6)

    first = history("first", 1)
    assert history("again", 1) == first
    assert history("other", 2) != first


def test_the_markets_time_may_run_faster(start: Start, tmp_path: Path) -> None:
    found = capacity(at_0s=0, at_1h=2)
    emulator = on_market(start, tmp_path, speed=3600, retry="20min", capacity=found)
    job = emulator.create(pool("echo up"), pool("echo up"), **SPOT)
    ended = emulator.until(job, "SUCCEEDED", "FAILED")
    assert ended["state"] == "JOB_STATE_SUCCEEDED"


def test_all_jobs_share_one_market(start: Start, tmp_path: Path) -> None:
    emulator = on_market(start, tmp_path, capacity=capacity(at_0s=2))
    first = emulator.create(pool(SLEEP), pool(SLEEP), **SPOT)
    emulator.until(first, "RUNNING")
    second = emulator.create(pool("echo up"), **SPOT)
    on_demand = emulator.create(pool("echo up"))
    emulator.until(on_demand, "SUCCEEDED")  # is not of the Spot market
    assert emulator.get(second)["state"] == "JOB_STATE_QUEUED"
    emulator.http.post(f"{first}:cancel")
    emulator.until(second, "SUCCEEDED")


def test_a_job_that_finds_no_vm_ends_with_stockout(start: Start, tmp_path: Path) -> None:
    emulator = on_market(start, tmp_path, speed=600, retry="1min", capacity=capacity(at_0s=1))
    job = emulator.create(pool("echo up"), pool("echo up"), **SPOT)
    ended = emulator.until(job, "FAILED")
    assert "startTime" not in ended
    assert ended["error"] == {
        "code": 8,
        "message": "Resources are insufficient in region: local. "
        "Try a different region or use a different accelerator.",
    }


def test_survivors_may_have_to_start_anew(start: Start, tmp_path: Path) -> None:
    emulator = on_market(
        start,
        tmp_path,
        survivors="restart",
        incidents=[{"at": "0s", "vanish": "workerpool1-0", "back": "1s"}],
    )
    job = emulator.create(pool(f"echo up; {SLEEP}"), pool(f"echo up; {SLEEP}"), **SPOT)
    again = wait_for(  # startTime is when it was RUNNING for the first time
        lambda: emulator.get(job),
        lambda it: it["state"] == "JOB_STATE_RUNNING" and it["startTime"] < it["updateTime"],
    )
    assert "endTime" not in again
    for name in ("workerpool0-0", "workerpool1-0"):
        emulator.until_output(job, name, "up")


def test_flex_start_waits_for_as_long_as_it_was_told(start: Start, tmp_path: Path) -> None:
    emulator = on_market(start, tmp_path, speed=6000, retry="1s", capacity=capacity(at_0s=0))
    flex = {"strategy": "FLEX_START", "maxWaitDuration": "0.5s"}
    job = emulator.create(pool("echo up"), scheduling=flex)
    ended = emulator.until(job, "EXPIRED", "FAILED")
    assert ended["state"] == "JOB_STATE_EXPIRED"


def test_what_waits_in_the_queue_waits_on_after_a_restart(start: Start, tmp_path: Path) -> None:
    emulator = on_market(start, tmp_path, capacity=capacity(at_0s=0))
    job = emulator.create(pool("echo up"), **SPOT)
    for _ in range(2):
        emulator.stop()
        emulator = on_market(start, tmp_path, capacity=capacity(at_0s=0))
        assert emulator.get(job)["state"] == "JOB_STATE_QUEUED"
    emulator.stop()
    emulator = on_market(start, tmp_path, capacity=capacity(at_0s=1))
    emulator.until(job, "SUCCEEDED")


def test_the_market_goes_on_while_the_emulator_is_down(tmp_path: Path) -> None:
    market = Market(
        capacity=[Capacity(machine=MACHINE, vms={timedelta(): 0, timedelta(hours=1): 1})],
    )

    async def seen(time_of_day: float) -> str:
        registry = Registry(tmp_path / "state", market, clock=lambda: time_of_day)
        await registry.resume()
        jobs = registry.jobs("local", "local")
        if not jobs:
            body = {"displayName": "a job", "jobSpec": {"workerPoolSpecs": [pool("true")], **SPOT}}
            jobs = [registry.create("local", "local", body)]
        for _ in range(10):  # so that the market has looked at its clock
            await asyncio.sleep(0)
        while jobs[0]["state"] not in ("JOB_STATE_QUEUED", "JOB_STATE_SUCCEEDED"):
            await asyncio.sleep(0.01)
        await registry.close()
        return str(jobs[0]["state"])

    assert asyncio.run(seen(1000.0)) == "JOB_STATE_QUEUED"
    assert asyncio.run(seen(1000.0 + 3599)) == "JOB_STATE_QUEUED"
    assert asyncio.run(seen(1000.0 + 3600)) == "JOB_STATE_SUCCEEDED"


class Owner:
    """A job that holds two VMs of the market."""

    stranded = False

    def __init__(self) -> None:
        self.living = ["workerpool1-0", "workerpool1-1"]
        self.taken: list[str] = []

    def bid(self) -> Bid:
        machines = {"workerpool1-0": MACHINE, "workerpool1-1": MACHINE}
        wanted = tuple(self.taken)
        return Bid(1, "local", machines, living=tuple(self.living), wanted=wanted)

    def take(self, replica: str, notice: timedelta | None) -> None:
        self.living.remove(replica)
        self.taken.append(replica)

    def grant(self, replicas: Sequence[str]) -> None:
        self.taken = [one for one in self.taken if one not in replicas]
        self.living += replicas

    def refuse(self) -> None:
        raise AssertionError("it has VMs")


def test_what_changed_while_there_was_no_emulator_befalls_its_jobs_in_order(tmp_path: Path) -> None:
    hours = {timedelta(): 2, timedelta(hours=1): 0, timedelta(hours=2): 1}
    market = Market(capacity=[Capacity(machine=MACHINE, vms=hours)])
    owner = Owner()

    async def until(time_of_day: float, again: bool) -> None:
        exchange = Exchange(market, tmp_path / "exchange.json", lambda: time_of_day)
        exchange.enter(1, owner, again)
        await asyncio.sleep(0)
        await exchange.close()

    asyncio.run(until(1000.0, again=False))
    assert (len(owner.living), owner.taken) == (2, [])
    asyncio.run(until(1000.0 + 3 * 3600, again=True))
    assert len(owner.living) == len(owner.taken) == 1, "both were taken, and one given back"
    before = list(owner.living)
    asyncio.run(until(1000.0 + 3 * 3600, again=True))
    assert owner.living == before, "and that once"
