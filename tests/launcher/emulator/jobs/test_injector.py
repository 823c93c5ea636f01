"""The market's incidents befall a job, and what they cut short is said."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from launcher.emulator.jobs import injector
from launcher.emulator.jobs.lifecycle import Replica, ReplicaState
from launcher.emulator.market.exchange import Exchange
from launcher.emulator.market.incidents import from_file
from launcher.emulator.resources.customjobs import JobState
from launcher.job.marketfile import Market

NAME = "workerpool1-0"


class Job:
    """A running job of one replica, with notice until it is given back."""

    state = JobState.RUNNING

    def __init__(self) -> None:
        self.story: list[str] = []
        self._replica = Replica(ReplicaState.RUNNING, 1)

    @property
    def ending(self) -> bool:
        return "restored" in self.story

    def replica(self, name: str) -> Replica | None:
        assert name == NAME
        return self._replica

    def preempt(self, replica: str, notice: timedelta | None) -> None:
        assert (replica, notice) == (NAME, timedelta(seconds=5))
        self._replica.state, self._replica.withheld = ReplicaState.NOTICED, True
        self.story.append("noticed")

    def restore(self, replica: str) -> None:
        self._replica.withheld = False
        self.story.append("restored")


def test_a_notice_that_is_cut_short_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(injector, "POLL", 0.0)
    incidents = [{"at": "0s", "preempt": NAME, "notice": "5s", "back": "0.001s"}]
    market = Market.model_validate({"incidents": incidents})
    job = Job()

    async def run() -> None:
        exchange = Exchange(market, tmp_path / "exchange.json")
        record = {"name": "projects/p/locations/r/customJobs/1", "jobSpec": {}}
        at_work = injector.IncidentInjector(from_file(market.incidents), exchange, record)
        await asyncio.wait_for(at_work.run(job, since=exchange.now), timeout=600)

    asyncio.run(run())
    assert job.story == ["noticed", "restored"]
    (said,) = [one.getMessage() for one in caplog.records]
    assert said.startswith("workerpool1-0 comes back before its notice is over: it goes at once")
