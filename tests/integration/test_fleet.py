"""A fleet with the real trainer: several CustomJobs, whose workers form one world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from launcher.emulator.vms import netns
from launcher.status.history import History
from tests.integration.command import Swell, until
from tests.integration.test_checkpoints import weights
from tests.integration.test_elastic_run import (
    EPOCHS,
    STEPS_PER_EPOCH,
    check_nothing_lost,
    undisturbed,
    write_job,
)
from trainer.protocol.lease import newest_claim
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, read_events

__all__ = ["undisturbed"]  # a fixture

# Waits before some steps until somebody opens their gates: what is to happen before them does.
# Where something is to happen while it trains, it trains slowly until somebody is done with that.
TASK = """
import time
from pathlib import Path
from trainer.tasks.digits import Digits


class Gated(Digits):
    def __init__(self, gates, at, slowly, **rest):
        super().__init__(**rest)
        self.gates, self.at, self.slowly = Path(gates), at, slowly

    def before_update(self, model, step):
        if self.slowly and not (self.gates / "hurry").exists():
            time.sleep(0.5)
        if step.number in self.at:
            (self.gates / f"at {step.number}").touch()
            while not (self.gates / str(step.number)).exists():
                time.sleep(0.05)
"""
JOB = """
name: fleet
task: {folder}/gated.py:Gated
args:
  {{gates: {folder}, at: {gates}, slowly: {slowly}, epochs: {epochs}, batch: 64, width: 8,
    dtype: float64}}
fleet: {fleet}
regions: {regions}
timeout: {timeout}
pools: {pools}
elastic: {{suspicion: 5s, spares: 0, start_wait: {start_wait}}}
fallback: {fallback}
resubmit: {resubmit}
audit: true
limits: {limits}
local: {{vm: {vm}, market: {market}}}
"""
ONE = ["a2-highgpu-1g"]


class Fleet:
    """A run of several jobs, as it goes on.

    Args:
        swell: the command.
        gates: before which steps it waits.
        slowly: whether it trains slowly until ``hurry``.
        rest: fields of the job file.
    """

    def __init__(
        self,
        swell: Swell,
        *gates: int,
        market: dict[str, Any],
        slowly: bool = False,
        regions: Sequence[str] = (),
        **rest: Any,
    ) -> None:
        self._swell = swell
        (swell.folder / "gated.py").write_text(TASK)
        fields: dict[str, Any] = {
            "pools": ONE,
            "start_wait": "60s",
            "vm": "process",
            "timeout": "1h",
            "limits": {},
        }
        fields |= {"fallback": [], "resubmit": {"pause": "1s", "longest": "2s"}, **rest}
        job = swell.folder / "fleet.yaml"
        job.write_text(
            JOB.format(
                folder=swell.folder,
                gates=list(gates),
                slowly=json.dumps(slowly),
                regions=json.dumps(list(regions)),
                epochs=EPOCHS,
                market=json.dumps({"notice": "none", "survivors": "fail", **market}),
                **{name: json.dumps(value) for name, value in fields.items()},
            )
        )
        self.launch: subprocess.Popen[str] = swell.start("launch", str(job), "--run-id", "fleet")
        self.output = ""

    def until(self, condition: Any) -> None:
        until(lambda: self.launch.poll() is not None or condition())
        assert self.launch.poll() is None, self.launch.communicate()[0]

    def waits_at(self, step: int) -> None:
        """The world that trains has come to a gate."""
        self.until((self._swell.folder / f"at {step}").exists)

    def open(self, step: int) -> None:
        """Lets it go on."""
        (self._swell.folder / str(step)).touch()

    def hurry(self) -> None:
        """Lets it train as fast as it can from now on."""
        (self._swell.folder / "hurry").touch()

    def end(self) -> None:
        self.output, _ = self.launch.communicate()
        assert self.launch.returncode == 0, self.output

    @property
    def events(self) -> list[Event]:
        return read_events(self.directory) if self._swell.run_dir("fleet").exists() else []

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(str(self._swell.run_dir("fleet")))

    def step(self) -> int:
        """How many steps are completed."""
        return History(self.events).step

    def ready(self) -> set[str]:
        """All members that have ever been ready."""
        return {str(e["member"]) for e in self.events if e["event"] == "member_ready"}

    def ended(self) -> set[int]:
        """The attempts that are over."""
        return {e["attempt"] for e in self.events if e["event"] == "attempt_ended"}

    def worlds(self) -> list[tuple[int, int]]:
        """Of all that formed: how many workers, and from which step."""
        return [(e["world_size"], e["step"]) for e in self.events if e["event"] == _FORMED]

    def jobs(self) -> list[int]:
        """The attempts in the newest world."""
        members = [e["members"] for e in self.events if e["event"] == _FORMED][-1]
        return sorted({int(member.partition("/")[0]) for member in members})

    def leading_job(self) -> int:
        """The attempt of the VM whose coordinator leads."""
        claim = newest_claim(self.directory)
        assert claim is not None
        return claim.attempt

    def set_market_forward(self, hours: int) -> None:
        """Its clock is set while nobody looks: its emulator is killed, and its VMs live on."""
        self.launch.send_signal(signal.SIGSTOP)
        os.kill(self._swell.emulator("fleet"), signal.SIGKILL)
        kept = self._swell.state("fleet") / "exchange.json"
        exchange = json.loads(kept.read_text())
        kept.write_text(json.dumps({**exchange, "began": exchange["began"] - 3600 * hours}))
        self.launch.send_signal(signal.SIGCONT)


_FORMED = "generation_formed"
_BOTH = {"5/workerpool0-0", "5/workerpool1-0"}


@pytest.fixture
def stopped(swell: Swell) -> Iterator[None]:
    """Whatever was stopped can end."""
    yield
    for launch in swell.launches:
        launch.send_signal(signal.SIGCONT)


def test_a_job_that_fails_with_its_vm_costs_no_step_and_is_replaced(
    swell: Swell, undisturbed: list[float]
) -> None:
    """As Vertex AI documents it: what cannot be had again ends the whole CustomJob."""
    lost = {"at": "20 steps", "vanish": "2/workerpool1-0"}
    run = Fleet(swell, 100, fleet=2, pools=ONE * 2, market={"incidents": [lost]})
    run.until(lambda: len([member for member in run.ready() if member.startswith("3/")]) == 2)
    run.open(100)
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    assert [attempt["state"] for attempt in status["attempts"]] == [
        "SUCCEEDED",
        "FAILED",
        "SUCCEEDED",
    ]
    assert status["attempts"][1]["reason"].startswith("Resources are insufficient")
    worlds = run.worlds()
    assert worlds[0] == (4, 0)
    assert {size for size, step in worlds if 20 <= step < 100} >= {2}, "the others train on"
    assert worlds[-1][0] == 4 and worlds[-1][1] >= 99, "and the replacement joins them"


@pytest.mark.soak
def test_of_four_jobs_three_go_on_and_end_with_the_parameters_of_an_undisturbed_run(
    swell: Swell, undisturbed: list[float]
) -> None:
    """One of eight VMs vanishes, and with it a job of two; six train on, and a job replaces it."""
    lost = {"at": "20 steps", "vanish": "2/workerpool1-0"}
    run = Fleet(
        swell, 100, fleet=4, pools=ONE * 2, start_wait="10min", market={"incidents": [lost]}
    )
    run.waits_at(100)
    run.until(lambda: {member for member in run.ready() if member.startswith("5/")} == _BOTH)
    run.open(100)
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    states = [attempt["state"] for attempt in status["attempts"]]
    assert states == ["SUCCEEDED", "FAILED", "SUCCEEDED", "SUCCEEDED", "SUCCEEDED"]
    worlds = run.worlds()
    assert worlds[0] == (8, 0)
    assert 6 in {size for size, step in worlds if 20 <= step < 100}, "the others train on"
    assert worlds[-1][0] == 8 and worlds[-1][1] >= 99, "and the replacement joins them"
    launch = swell("launch", write_job(swell, others=1), "--run-id", "calm")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    step = EPOCHS * STEPS_PER_EPOCH
    ended, calm = (weights(RunDirectory(str(swell.run_dir(it))), step) for it in ("fleet", "calm"))
    assert len(ended) == len(calm) > 0
    for one, other in zip(ended, calm, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.soak
@pytest.mark.usefixtures("stopped")
def test_it_begins_with_what_there_is_and_outlives_all_its_spot_jobs_and_its_leaders(
    swell: Swell, undisturbed: list[float]
) -> None:
    """Three jobs, one of them on demand: Spot VMs for one at first, then for two, none, two."""
    spot = {"machine": "a2-highgpu-1g", "vms": {"0s": 1, "1h": 2, "2h": 0, "3h": 2}}
    run = Fleet(
        swell,
        *(30, 60, 90, 120, 150),
        fleet={"jobs": 3, "anchor": 1},
        start_wait="1s",
        market={"capacity": [spot]},
    )
    # There is room for two of the three.
    run.waits_at(30)
    begun_with = run.jobs()
    run.set_market_forward(1)
    run.until(lambda: len(run.ready()) == 3)
    run.open(30)
    run.waits_at(60)
    all_three = run.jobs()
    # All Spot VMs are gone; the anchor is not.
    run.set_market_forward(1)
    run.until(lambda: run.ended() >= set(all_three[1:]))
    run.open(60)
    run.waits_at(90)
    left = run.jobs()
    # They are back.
    before = run.ready()
    run.set_market_forward(1)
    run.until(lambda: len(run.ready() - before) == 2)
    run.open(90)
    run.waits_at(120)
    back = run.jobs()
    # The leader's whole job is gone.
    leader, before = run.leading_job(), run.ready()
    taken = swell("preempt", "fleet", f"{leader}/workerpool0-0", "--silent")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    run.until(lambda: leader in run.ended())
    run.open(120)
    run.waits_at(150)
    without = run.jobs()
    run.until(lambda: run.ready() - before)
    run.open(150)
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    assert begun_with == [1, 2] and all_three == [1, 2, 3] and left == [1]
    assert len(back) == 3 and set(back) & set(all_three) == {1}
    assert leader not in without and set(without) >= set(back) - {leader}, "the others go on"
    assert run.worlds()[-1][0] == 3, "and are joined by a replacement"
    choices = {attempt["attempt"]: attempt["choice"] for attempt in status["attempts"]}
    assert "standard" in choices[1] and all("spot" in choices[job] for job in (2, 3))


@pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing()))
def test_jobs_that_do_not_reach_each_other_never_disturb_one_another(
    swell: Swell, undisturbed: list[float]
) -> None:
    """The first trains undisturbed; the other is not let in, is given up, and not replaced."""
    run = Fleet(
        swell, 60, fleet=2, start_wait="1s", vm="netns", market={"isolated": True, "notice": "30s"}
    )
    run.waits_at(60)
    run.until(lambda: run.ended())
    run.open(60)
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed)
    assert len(status["attempts"]) == 2, status["attempts"]
    [inside] = run.jobs()
    [outside] = {1, 2} - {inside}
    assert status["attempts"][inside - 1]["state"] == "SUCCEEDED"
    apart = status["attempts"][outside - 1]
    assert (apart["state"], apart["kind"]) == ("CANCELLED", "unreachable")
    assert "[SW5011]" in apart["left"]
    assert run.worlds() == [(1, 0)] and status["pauses"] == []
    told = [event for event in run.events if event["event"] == "unreachable"]
    assert {event["member"] for event in told} == {f"{outside}/workerpool0-0"}
    assert told[0]["address"] != told[0]["peer_address"]
    assert f"{outside}/workerpool0-0 is not let into the world" in run.output
