"""A fleet is asked to be another while it trains: the new jobs train before the old ones go."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from launcher.run_states import info_of
from tests.integration.command import ROOT, Swell, until
from tests.integration.test_elastic_run import check_nothing_lost, undisturbed
from tests.integration.test_fleet import ONE, Fleet
from tests.integration.test_scripts import SCRIPTS

__all__ = ["undisturbed"]  # a fixture


def ask(swell: Swell, *command: str) -> None:
    asked = swell(*command)
    assert asked.returncode == 0, asked.stdout + asked.stderr


def check_that_nobody_was_lost(run: Fleet) -> None:
    """A leader that goes may hand over in the middle of a stop, of which the next one knows
    nothing: that counts as a break, and the same world forms once more."""
    causes = {event["cause"] for event in run.events if event["event"] == "generation_formed"}
    assert causes <= {"start", "grow", "drain", "leader", "break"}
    assert [event for event in run.events if event["event"] == "loss"] == []


def test_a_run_moves_to_another_region_and_grows_without_losing_a_step(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(swell, fleet=1, regions=["us-central1"], market={}, slowly=True)
    run.until(lambda: run.worlds() and run.step() > 3)
    ask(swell, "move", "fleet", "--region", "us-east1")
    run.until(lambda: run.ended() == {1})
    moved = run.jobs()
    ask(swell, "resize", "fleet", "--jobs", "2")
    run.until(lambda: run.jobs() == [2, 3])
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    assert moved == [2]
    regions = [attempt["region"] for attempt in status["attempts"]]
    assert regions == ["us-central1", "us-east1", "us-east1"]
    assert [attempt["kind"] for attempt in status["attempts"]] == ["replaced", "", ""]


@pytest.mark.soak
def test_a_run_on_demand_goes_back_to_spot_while_it_trains_and_loses_no_step(
    swell: Swell, undisturbed: list[float]
) -> None:
    spot = {"machine": "a2-highgpu-1g", "vms": {"0s": 0, "1h": 1}}
    run = Fleet(
        swell,
        fleet=1,
        fallback=[{"strategy": "standard"}],
        resubmit={"pause": "1s", "longest": "2s", "patience": "3s", "back": "2s"},
        market={"capacity": [spot]},
        slowly=True,
    )
    run.until(lambda: run.worlds() and run.step() > 3)
    (dear,) = run.jobs()
    run.until(lambda: max(run.ended(), default=0) > dear)  # tried beside it, in vain
    run.set_market_forward(1)
    run.until(lambda: dear in run.ended())
    (back,) = run.jobs()
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    attempts = {attempt["attempt"]: attempt for attempt in status["attempts"]}
    assert "standard" in attempts[dear]["choice"] and attempts[dear]["kind"] == "replaced"
    assert "spot" in attempts[back]["choice"] and attempts[back]["state"] == "SUCCEEDED"
    assert sum("standard" in attempt["choice"] for attempt in attempts.values()) == 1
    assert [size for size, _ in groupby(size for size, _ in run.worlds())] == [1, 2, 1]


@pytest.mark.soak
def test_a_fleet_of_several_jobs_moves_and_shrinks_with_its_leader(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(swell, fleet=3, pools=ONE * 2, regions=["us-central1"], market={}, slowly=True)
    run.until(lambda: run.worlds() and run.worlds()[-1][0] == 6)
    ask(swell, "move", "fleet", "--region", "us-east4", "--machine", "a2-ultragpu-1g")
    run.until(lambda: run.ended() == {1, 2, 3})
    moved = run.jobs()
    ask(swell, "resize", "fleet", "--jobs", "1")
    run.until(lambda: len(run.ended()) == 5 and len(run.jobs()) == 1)
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    assert moved == [4, 5, 6]
    choices = [attempt["choice"] for attempt in status["attempts"]]
    assert choices[3:] == ["2 x a2-ultragpu-1g, spot, us-east4"] * 3
    kinds = [attempt["kind"] for attempt in status["attempts"]]
    assert kinds.count("replaced") == 5 and run.leading_job() == run.jobs()[0]


@pytest.mark.soak
def test_a_run_outlives_the_timeout_of_each_of_its_jobs(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(swell, fleet=1, timeout="60s", regions=["us-central1"], market={}, slowly=True)
    run.until(lambda: len(run.ended()) == 3)
    run.hurry()
    run.end()

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    check_that_nobody_was_lost(run)
    (finished,) = (event["time"] for event in run.events if event["event"] == "finished")
    outlived = [attempt for attempt in status["attempts"] if attempt["ended"] < finished]
    assert len(outlived) >= 3, "and the last one may have had another beside it"
    began = {it["attempt"]: it["started"] for it in status["attempts"]}
    ready = {e["member"]: e["time"] for e in reversed(run.events) if e["event"] == "member_ready"}
    took = [at - began[int(member.partition("/")[0])] for member, at in ready.items()]
    if max(took) < 20.0:  # else the machine is so loaded that half a timeout is not enough
        assert {attempt["kind"] for attempt in outlived} == {"replaced"}
    for attempt in outlived:
        assert attempt["kind"] == "replaced" or "longer than its timeout" in attempt["reason"]


SLOWLY = """
        time.sleep(0.0 if pathlib.Path(HURRY).exists() else 0.5)
        optimizer.step()
"""


def own_loop(swell: Swell) -> tuple[Path, list[str]]:
    """The example's loop, which takes its time until it is told to hurry."""
    text = (ROOT / "examples" / "own_loop.py").read_text()
    head, step, rest = text.partition("\n        optimizer.step()\n")
    assert step
    path = swell.folder / "loop.py"
    named = f"import pathlib\nimport time\n\nHURRY = {str(swell.folder / 'hurry')!r}\n"
    path.write_text(named + head + SLOWLY + rest)
    return path, ["--epochs", "4"]


def elastic_horovod(swell: Swell) -> tuple[Path, list[str]]:
    return SCRIPTS / "elastic_digits.py", ["--epochs", "3", "--pause", "0.4"]


@pytest.mark.soak
@pytest.mark.parametrize("program", [own_loop, elastic_horovod])
def test_a_loop_of_ones_own_and_an_elastic_horovod_script_move_as_tasks_do(
    swell: Swell, program: Callable[[Swell], tuple[Path, list[str]]]
) -> None:
    script, args = program(swell)
    job = swell.folder / "job.yaml"
    job.write_text(
        f"name: script\nscript: {script}\nargs: {json.dumps(args)}\nfleet: 1\n"
        "regions: [us-central1]\npools: [a2-highgpu-1g]\n"
        "elastic: {spares: 0, suspicion: 5s}\nlocal: {vm: process}\n"
    )
    launch = swell.start("launch", str(job), "--run-id", "fleet")

    def goes_on_until(condition: Callable[[], bool]) -> None:
        until(lambda: launch.poll() is not None or condition())
        assert launch.poll() is None, launch.communicate()[0]

    def status() -> dict[str, Any]:
        return swell.status("fleet") if swell.run_dir("fleet").exists() else {"step": 0}

    goes_on_until(lambda: status()["step"] > 3)
    ask(swell, "move", "fleet", "--region", "us-east1")
    goes_on_until(lambda: status()["attempts"][0]["state"] == "CANCELLED")
    (swell.folder / "hurry").touch()
    output, _ = launch.communicate()
    assert launch.returncode == 0, output

    found = status()
    assert (found["state"], found["steps_lost"], found["losses"]) == ("succeeded", 0, 0)
    assert [attempt["region"] for attempt in found["attempts"]] == ["us-central1", "us-east1"]
    assert [attempt["kind"] for attempt in found["attempts"]] == ["replaced", ""]
    causes = [generation["cause"] for generation in found["generations"]]
    assert causes[0] == "start" and {*causes[1:]} <= {"grow", "drain", "leader", "break"}
    until(swell.nothing_is_left)


def goes_on_as_it_was(
    swell: Swell, run: Fleet, undisturbed: list[float]
) -> tuple[str, dict[str, Any]]:
    """Lets a run end that something was tried beside in vain.

    Returns what ``swell status`` said meanwhile, and its status in the end.
    """
    said, before = swell("status", "fleet").stdout, run.step()
    run.until(lambda: run.step() > before)
    run.hurry()
    run.end()
    status = check_nothing_lost(swell, "fleet", undisturbed)
    assert run.worlds() == [(1, 0)], "nothing has happened to its world"
    return said, status


@pytest.mark.soak
def test_a_run_that_is_to_move_where_no_machines_are_goes_on_where_it_is_and_says_so(
    swell: Swell, undisturbed: list[float]
) -> None:
    none = {"machine": "a2-highgpu-1g", "region": "us-east1", "vms": {"0s": 0}}
    run = Fleet(
        swell,
        fleet=1,
        regions=["us-central1"],
        resubmit={"pause": "1s", "longest": "10s", "patience": "2s"},
        market={"capacity": [none]},
        slowly=True,
    )
    run.until(lambda: run.worlds() and run.step() > 3)
    ask(swell, "move", "fleet", "--region", "us-east1")
    run.until(lambda: len(run.ended()) >= 2)  # tried in vain, and again

    said, status = goes_on_as_it_was(swell, run, undisturbed)
    first, *others = status["attempts"]
    assert (first["state"], first["region"], first["left"]) == ("SUCCEEDED", "us-central1", "")
    assert {(it["state"], it["region"]) for it in others} == {("CANCELLED", "us-east1")}
    assert "attempt 1 stays until another trains" in said and "1 job, us-east1" in said
    assert "resubmit.patience: it has had no" in said
    assert "wanted from now on: 1 job, us-east1" in run.output
    assert "no capacity in us-east1" in run.output
    ending = run.output.rpartition("fleet succeeded")[2]
    assert "in us-central1, succeeded" in ending, "it says who has trained it to its end"


@pytest.mark.soak
def test_a_cost_limit_that_is_reached_while_two_jobs_cost_ends_both_with_a_checkpoint(
    swell: Swell,
) -> None:
    """While it stands in a step the new job cannot be let in, and the old one cannot go.

    The old one alone takes a day for the limit, however slow this machine is; both, 20 s.
    """
    limits = {"cost": "0.2 USD"}
    swell.home.mkdir(exist_ok=True)
    prices = "a2-highgpu-1g: {spot: 0.008}\na2-ultragpu-1g: {spot: 36.0}\n"
    (swell.home / "prices.yaml").write_text(prices)
    run = Fleet(swell, 20, fleet=1, regions=["us-central1"], limits=limits, market={})
    run.waits_at(20)
    ask(swell, "move", "fleet", "--region", "us-east4", "--machine", "a2-ultragpu-1g")
    run.until(lambda: any(event["event"] == "stop_asked" for event in run.events))
    both = swell.status("fleet")["attempts"]
    run.open(20)
    output, _ = run.launch.communicate()

    assert [(it["region"], it["state"]) for it in both] == [
        ("us-central1", "RUNNING"),
        ("us-east4", "RUNNING"),
    ]
    assert run.launch.returncode == info_of("limited").exit_code, output
    status = swell.status("fleet")
    assert status["state"] == "limited" and "limits.cost: 0.20 USD are spent" in status["reason"]
    assert status["step"] >= 20 and status["checkpoint"]["step"] == status["step"]
    assert status["steps_lost"] == 0
    assert {attempt["state"] for attempt in status["attempts"]} <= {"SUCCEEDED", "CANCELLED"}
    rates = [it["usd_per_hour"] for it in status["attempts"]]
    seconds = [it["ended"] - it["started"] for it in status["attempts"]]
    usd = sum(map(operator.mul, seconds, rates)) / 3600
    assert rates == [0.008, 36.0]
    assert status["spent"]["usd"] == pytest.approx(usd, abs=0.01) and usd >= 0.2
    assert len(status["attempts"]) == 2 and swell.nothing_is_left()


@pytest.mark.soak
def test_a_run_on_demand_stays_there_while_no_market_has_spot_and_says_so(
    swell: Swell, undisturbed: list[float]
) -> None:
    run = Fleet(
        swell,
        fleet=1,
        fallback=[{"strategy": "standard"}],
        resubmit={"pause": "1s", "longest": "10s", "patience": "2s", "back": "2s"},
        market={"capacity": [{"machine": "a2-highgpu-1g", "vms": {"0s": 0}}]},
        slowly=True,
    )
    run.until(lambda: run.worlds() and run.step() > 3)
    (dear,) = run.jobs()
    run.until(lambda: len([job for job in run.ended() if job > dear]) >= 2)

    said, status = goes_on_as_it_was(swell, run, undisturbed)
    (trained,) = [it for it in status["attempts"] if it["state"] == "SUCCEEDED"]
    assert (trained["attempt"], trained["left"]) == (dear, "")
    assert "standard" in trained["choice"]
    later = [it for it in status["attempts"] if it["attempt"] > dear]
    assert all(it["beside"] and "spot" in it["choice"] for it in later)
    stays = f"attempt {dear} stays until another trains"
    assert stays in said and "it is on demand, and Spot costs less" in " ".join(said.split())
    assert ", beside what is dearer" in run.output and "no capacity in" in run.output
