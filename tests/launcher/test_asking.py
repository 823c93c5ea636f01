"""``swell resize`` and ``swell move``: what may be asked of a run, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher import asking, home
from launcher.cli import app
from launcher.supervision.wanted import Change
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.wanted import Wanted, create_wanted, newest_wanted

SPEC = {
    "name": "j",
    "task": "my.tasks:Task",
    "pools": ["a2-highgpu-1g", "a2-highgpu-1g"],
    "regions": ["us-central1"],
    "fleet": {"jobs": 2},
}


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))


def a_run(target: str = "local", changes_worlds: object = None, **fields: Any) -> RunDirectory:
    directory = home.directory_for("one", None)
    record = {"id": "one", "target": target, "created": 5.0, "by": "x@y", **formats.RUN.stamp()}
    spec = {name: value for name, value in {**SPEC, **fields}.items() if value is not None}
    home.create(directory, {**record, "spec": spec, "changes_worlds": changes_worlds})
    return directory


def swell(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.output


def test_what_is_asked_is_written_and_told() -> None:
    directory = a_run()
    code, said = swell("resize", "one", "--jobs", "4")
    assert (code, said.split(";")[0]) == (0, "run one: wanted from now on: 4 jobs")
    assert "swell attach one" in said, "nobody looks after it"
    code, _ = swell("move", "one", "--region", "us-east1", "--strategy", "standard")
    found = newest_wanted(directory)
    assert code == 0 and found is not None
    assert (found.version, found.jobs, found.region) == (2, 4, "us-east1"), "the 4 jobs stay"
    assert (found.machine, found.strategy, found.by) == ("", "standard", home.whoami())
    assert found.max_workers == 2 * 4 * 2, "all of both kinds at once"
    told = [event for event in read_events(directory) if event["event"] == "wanted"]
    assert [event["version"] for event in told] == [1, 2]


def test_of_two_who_ask_at_once_the_second_changes_what_the_first_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = a_run()
    between: list[Callable[[], str]] = [lambda: asking.ask(directory, Change(jobs=3))]

    def create(run_dir: RunDirectory, wanted: Wanted) -> bool:
        if between:
            between.pop()()
        return create_wanted(run_dir, wanted)

    monkeypatch.setattr(asking, "create_wanted", create)
    asking.ask(directory, Change(region="us-east1"))
    found = newest_wanted(directory)
    assert found is not None
    assert (found.version, found.jobs, found.region) == (2, 3, "us-east1")


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"fleet": None}, "launch it with fleet: 1, or another number [SW2033]"),
        (
            {"task": None, "torchrun": "train.py", "changes_worlds": False},
            "a torchrun script begins again in every world",
        ),
        ({"task": None, "script": "train.py", "changes_worlds": False}, "is plain Horovod"),
        ({"task": None, "script": "train.py"}, "was not known where it was launched"),
        ({"task": None, "module": "my.train", "changes_worlds": "yes"}, "was not known where"),
    ],
)
def test_a_run_that_cannot_change_says_why(fields: dict[str, Any], said: str) -> None:
    directory = a_run(**fields)
    code, output = swell("resize", "one", "--jobs", "2")
    assert code == 2 and said in output
    assert newest_wanted(directory) is None


@pytest.mark.parametrize("program", [{"script": "train.py"}, {"module": "my.train"}])
def test_programs_that_take_it_that_their_world_changes_can_be_asked(
    program: dict[str, str],
) -> None:
    directory = a_run(task=None, changes_worlds=True, **program)
    assert swell("resize", "one", "--jobs", "3")[0] == 0
    found = newest_wanted(directory)
    assert found is not None and found.jobs == 3


@pytest.mark.parametrize(
    "args, said",
    [
        (("move", "--region", "us-moon1"), "is not a region with A2 or A3 machines"),
        (("move", "--machine", "n1"), "is not a machine of the series"),
        (("move", "--region", "us-east1", "--machine", "a3-highgpu-8g"), "us-east1"),
        (("move",), "give --region, --machine or --strategy"),
        (("resize", "--jobs", "65"), "65 jobs: a fleet has 1 to 64 [SW2032]"),
        (
            ("resize", "--jobs", "1"),
            "its workers, 2, would be fewer than elastic.min_workers, 3 [SW2032]",
        ),
    ],
)
def test_what_it_cannot_be_is_refused_and_nothing_is_written(
    args: tuple[str, ...], said: str
) -> None:
    directory = a_run(elastic={"min_workers": 3})
    code, output = swell(args[0], "one", *args[1:])
    assert code == 2 and said in output.replace("\n", " ")
    assert newest_wanted(directory) is None


def test_there_must_be_room_for_one_job_more_than_are_wanted() -> None:
    directory = a_run(elastic={"max_workers": 4})
    code, output = swell("move", "one", "--region", "us-east1")
    assert code == 2 and "elastic.max_workers is 4, and the world has 6" in output
    assert swell("resize", "one", "--jobs", "1")[0] == 0
    found = newest_wanted(directory)
    assert found is not None and found.max_workers == 4, "what the job says stays the bound"


def test_fewer_jobs_than_anchors_are_refused() -> None:
    a_run(fleet={"jobs": 3, "anchor": 2})
    code, output = swell("resize", "one", "--jobs", "1")
    assert code == 2 and "the number of jobs, 1, is less than fleet.anchor, 2" in output


def test_a_limit_of_cost_needs_the_price_of_what_is_asked_for() -> None:
    a_run(limits={"cost": "50 USD"}, regions=["us-central1"])
    code, output = swell("move", "one", "--machine", "a2-highgpu-2g")
    assert code == 2 and "SW2014" in output


def test_on_vertex_it_needs_the_network_that_the_new_machines_can_be_in() -> None:
    network = "projects/1/global/networks/n"
    a_run("vertex", network=network, project="p", output="gs://bucket/runs")
    code, output = swell("move", "one", "--machine", "a3-megagpu-8g")
    assert code == 2 and "Vertex AI peers with no network" in output


def test_a_run_that_has_ended_is_asked_nothing() -> None:
    directory = a_run()
    directory.end("succeeded", "training is complete")
    code, output = swell("resize", "one", "--jobs", "3")
    assert code == 2 and "has ended: succeeded [SW2011]" in output


def test_a_run_of_another_version_is_asked_nothing() -> None:
    directory = a_run()
    run = directory.read_json("run.json")
    directory.write_json("run.json", {**run, "format": 99})
    code, output = swell("resize", "one", "--jobs", "3")
    assert code != 0 and "SW2026" in output
