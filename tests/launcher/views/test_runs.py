"""``swell runs`` and what ``swell status`` asks the API."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from launcher.api.retry import Retries
from launcher.api.vertex import Jobs
from launcher.cli import app
from launcher.status.api import NOT_CREATED, ask_api
from launcher.supervision.attempt import read_attempts
from launcher.views.runs import list_runs, print_runs
from tests.launcher.faulty_server import FaultyServer, refuses
from tests.launcher.recorded_run import PARENT, SPEC, custom_job, record_attempt, record_run
from trainer.rundir.events import EventWriter
from trainer.rundir.retry import ONCE

pytest.importorskip("google.cloud.aiplatform_v1")

OPTIONS: dict[str, Any] = {"report": pytest.fail}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def three() -> None:
    """Three runs: a newest one that runs, one that failed, and an old local one."""
    record_run("old", target="local", created=1.0).end("succeeded", "done")
    record_run("failed", created=2.0).end("failed", "out of memory")
    record_attempt(record_run("new", created=3.0), "http://127.0.0.1:1", state="RUNNING")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["old", "failed", "new"]),
        ({"limit": 2}, ["failed", "new"]),
        ({"states": ["succeeded", "failed"]}, ["old", "failed"]),
        ({"states": ["succeeded", "failed"], "limit": 1}, ["failed"]),
        ({"states": ["cancelled"]}, []),
        ({"target": "local"}, ["old"]),
        ({"target": "vertex", "states": ["running"]}, ["new"]),
        ({"name": "fail"}, ["failed"]),
        ({"name": "?e"}, ["new"]),
        ({"name": "*l"}, ["old", "failed"]),
        ({"name": "ew"}, []),
        ({"since": 2.0}, ["failed", "new"]),
        ({"regions": ["us-central1"]}, ["new"]),
        ({"regions": ["us-central"]}, []),
    ],
)
def test_filters(three: None, options: dict[str, Any], expected: list[str]) -> None:
    assert [row["run"] for row in list_runs([], **options, **OPTIONS)] == expected


def test_no_more_runs_are_read_than_are_asked_for(home: Path) -> None:
    for number in range(20):
        directory = record_run(f"run-{number:02}", created=float(number))
        (Path(directory.url) / "outcome.json").write_text("{" if number < 4 else '{"state": "x"}')
    problems: list[str] = []
    assert len(list_runs([], limit=10, report=problems.append)) == 10
    assert problems == []
    assert len(list_runs([], report=problems.append)) == 16
    assert len(problems) == 4 and problems[0].startswith("run-0")


def test_what_the_api_knows_beside_what_this_machine_knows(
    server: FaultyServer, three: None
) -> None:
    stranger = {**custom_job("stranger", 4), "labels": {}}
    for job in (
        custom_job("elsewhere", 1, "FAILED"),
        custom_job("new", 2, "RUNNING"),
        custom_job("elsewhere", 3, "PENDING", attempt=2),
        stranger,
    ):
        server.jobs[job["name"]] = job
    rows = list_runs([Jobs("p", "us-central1")], **OPTIONS)
    assert [row["run"] for row in rows] == ["old", "failed", "new", "elsewhere"]
    elsewhere = rows[-1]
    assert (elsewhere["state"], elsewhere["api_state"]) == ("queued", "PENDING")
    assert (elsewhere["job"], elsewhere["url"]) == (f"{PARENT}/3", "gs://bucket/elsewhere")
    assert elsewhere["step"] is None
    assert [row["api_state"] for row in rows[:3]] == [None, None, "RUNNING"]
    assert list_runs([Jobs("p", "us-central1")], target="local", **OPTIONS) == rows[:1]


@pytest.mark.parametrize("terminal", [False, True])
def test_ids_are_neither_cut_nor_folded_however_narrow_it_is(three: None, terminal: bool) -> None:
    record_run("a" * 63, created=4.0)
    file = io.StringIO()
    console = Console(file=file, width=40, force_terminal=terminal)
    print_runs(console, list_runs([], **OPTIONS), False)
    lines = file.getvalue().splitlines()
    assert len(lines) == 5
    assert "a" * 63 in lines[-1]
    assert ("\x1b" in file.getvalue()) is terminal


def test_the_command(server: FaultyServer, three: None, tmp_path: Path) -> None:
    server.jobs[f"{PARENT}/1"] = custom_job("elsewhere")
    asked = ["runs", "--project", "p", "--region", "us-central1", "--region", "us-central1"]
    rows = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [row["run"] for row in rows] == ["old", "failed", "new", "elsewhere"]
    assert len(server.requests) == 1
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(SPEC))
    shown = CliRunner().invoke(app, ["runs", "--job", str(job), "--state", "running"])
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["run", "new", "elsewhere"]
    assert CliRunner().invoke(app, ["runs", "-q", "--name", "*l"]).stdout == "old\nfailed\n"
    assert CliRunner().invoke(app, ["runs", "-q", "--since", "2h"]).stdout == ""
    assert CliRunner().invoke(app, ["runs", "-q", "--region", "us-central1"]).stdout == "new\n"
    nothing = CliRunner().invoke(app, ["runs", "--state", "waiting"])
    assert nothing.stdout == "No run is like that; without options, swell runs lists all.\n"
    server.faults = [refuses(403, "PERMISSION_DENIED", "No.")]
    refused = CliRunner().invoke(app, asked)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("swell: http://127.0.0.1") and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [["--project", "p"], ["--since", "3"], ["--since", "x"], ["--limit", "0"], ["--state", "odd"]],
)
def test_options_that_say_nothing_useful(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["runs", *options]).exit_code == 2


def test_status_has_the_apis_word_beside_the_run_directorys(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint)
    server.jobs[f"{PARENT}/1"] = {
        **custom_job("one", state="FAILED"),
        "error": {"code": 8, "message": "Resources are insufficient in region: us-central1."},
    }
    status = json.loads(CliRunner().invoke(app, ["status", "one", "--json"]).stdout)
    assert status["attempts"][0]["state"] == "PENDING"
    assert (
        status["apis"]
        == [status["api"]]
        == [
            {
                "attempt": 1,
                "job": f"{PARENT}/1",
                "state": "FAILED",
                "reason": "Resources are insufficient in region: us-central1.",
                "error": None,
                "id": None,
                "console": None,
            }
        ]
    )
    shown = CliRunner().invoke(app, ["status", "one"]).stdout
    assert "attempt 1       CustomJob 1 in us-central1, pending" in shown
    assert "Vertex AI       failed: Resources are insufficient" in shown


def test_status_without_an_answer_is_still_a_status(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint)
    shown = CliRunner().invoke(app, ["status", "one"])
    assert shown.exit_code == 0
    said = " ".join(shown.stdout.split())
    assert "404 The CustomJob" in said and "[SW3007]" in said
    api = json.loads(CliRunner().invoke(app, ["status", "one", "--json"]).stdout)["api"]
    assert "[SW" not in api["error"] and api["id"] == "SW3007"


def test_of_a_fleet_all_that_live_are_asked_about(server: FaultyServer) -> None:
    directory = record_run("one", fleet=3)
    states = {1: "RUNNING", 2: "FAILED", 3: "PENDING"}
    for number, state in states.items():
        record_attempt(directory, server.endpoint, number, state=state)
    server.jobs[f"{PARENT}/1"] = custom_job("one", 1)
    server.jobs[f"{PARENT}/3"] = custom_job("one", 3, state="QUEUED", attempt=3)
    status = json.loads(CliRunner().invoke(app, ["status", "one", "--json"]).stdout)
    assert [(it["attempt"], it["state"]) for it in status["apis"]] == [
        (1, "RUNNING"),
        (3, "QUEUED"),
    ]
    assert status["api"] == status["apis"][-1]
    shown = CliRunner().invoke(app, ["status", "one"]).stdout.splitlines()
    rows = [line.split()[:2] for line in shown if line.strip().startswith(("attempt", "Vertex"))]
    assert rows == [
        ["attempt", "1"],
        ["Vertex", "AI"],
        ["attempt", "2"],
        ["attempt", "3"],
        ["Vertex", "AI"],
    ]


def test_what_is_not_asked(server: FaultyServer) -> None:
    once = Retries(ONCE)
    local = record_run("local", target="local")
    record_attempt(local, server.endpoint)
    over = record_run("over")
    record_attempt(over, server.endpoint, state="SUCCEEDED")
    for directory in (local, over, record_run("none")):
        assert ask_api(directory.run(), read_attempts(directory), once) == []
    assert server.requests == []
    unknown = record_run("unknown")
    record_attempt(unknown, server.endpoint, job=None, state="SUBMITTING")
    [answer] = ask_api(unknown.run(), read_attempts(unknown), once)
    assert (answer["error"], answer["id"]) == (NOT_CREATED, "SW3020")
    server.jobs[f"{PARENT}/7"] = custom_job("unknown", 7)
    [answer] = ask_api(unknown.run(), read_attempts(unknown), once)
    assert (answer["job"], answer["state"]) == (f"{PARENT}/7", "RUNNING")


def test_of_a_script_that_does_not_say_there_is_no_step() -> None:
    directory = record_run("script", target="local")
    events = EventWriter(directory, "agent")
    events.emit("generation_formed", generation=1, world_size=1, cause="start", members=["a"])
    events.emit("resumed", generation=1, world_size=1, cause="start")
    events.flush()
    assert [row["step"] for row in list_runs([], **OPTIONS)] == [None]
    events.emit("steps", generation=1, first=7, count=1, metrics={})
    events.flush()
    assert [row["step"] for row in list_runs([], **OPTIONS)] == [7]
