"""A run's log, wherever it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher import home
from launcher.api.retry import Retries
from launcher.cli import app
from launcher.logs.logline import SECOND, format_time
from launcher.logs.reader import ASK_EVERY, EMULATOR_LINGER, LocalLog, VertexLog, open_log
from tests.launcher.faulty_server import FaultyServer, refuses
from tests.launcher.recorded_run import PARENT, custom_job, record_attempt, record_run
from trainer.rundir.directory import RunDirectory
from trainer.rundir.retry import ONCE


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(replica: str, seconds: float, message: str, end: str = "\n", job: str = "77") -> None:
    path = home.local_folder("one") / f"logs/{job}/{replica}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"timestamp": format_time(int(seconds * SECOND)), "severity": "INFO"}
    with path.open("a") as file:
        file.write(json.dumps({**entry, "replica": replica, "message": message}) + end)


class TestLocal:
    def test_lines_of_all_replicas_by_time_each_once(self) -> None:
        log = LocalLog("one")
        assert log.read_new() == []
        write("workerpool1-0", 2, "two")
        write("workerpool0-0", 1, "one")
        write("workerpool0-0", 3, "three")
        assert [line.message for line in log.read_new()] == ["one", "two", "three"]
        write("workerpool0-0", 4, "half", end="")
        assert log.read_new() == []
        write("workerpool1-0", 5, "five")
        assert [line.message for line in log.read_new()] == ["five"]

    def test_one_replica_and_a_time(self) -> None:
        for replica in ("workerpool0-0", "workerpool1-0"):
            for seconds in (1, 2):
                write(replica, seconds, f"{replica} {seconds}")
        log = LocalLog("one", "workerpool1-0", 2 * SECOND)
        assert [line.message for line in log.read_new()] == ["workerpool1-0 2"]

    @pytest.mark.parametrize("bad", ["\n", "nonsense\n", "[]\n", "7\n", '{"timestamp": 5}\n'])
    def test_what_is_no_entry_is_left_out(self, bad: str) -> None:
        write("workerpool0-0", 1, "one")
        with (home.local_folder("one") / "logs/77/workerpool0-0.jsonl").open("a") as file:
            file.write(bad)
        write("workerpool0-0", 2, "two")
        assert [line.message for line in LocalLog("one").read_new()] == ["one", "two"]

    def test_the_command(self) -> None:
        record_run("one", target="local", by=home.whoami())
        write("workerpool0-0", 1, "hello\nthere")
        write("workerpool1-1", 2, "\x1b]0;title\x07you")
        shown = CliRunner().invoke(app, ["logs", "one"]).stdout.splitlines()
        assert [line.partition(" ")[2] for line in shown] == [
            "workerpool0-0 hello",
            "workerpool0-0 there",
            "workerpool1-1 you",
        ]
        one = CliRunner().invoke(app, ["logs", "one", "--replica", "workerpool1-1", "--json"])
        assert json.loads(one.stdout) == {
            "time": "1970-01-01T00:00:02.000000000Z",
            "replica": "workerpool1-1",
            "severity": "INFO",
            "message": "\x1b]0;title\x07you",
        }
        assert CliRunner().invoke(app, ["logs", "one", "--since", "10min"]).stdout == ""

    @pytest.mark.parametrize(
        ("by", "options", "problem"),
        [
            (
                "x@elsewhere",
                [],
                "swell: one: was launched by x@elsewhere; its logs are there [SW2008]\n",
            ),
            (
                None,
                ["--replica", "workerpool1-3"],
                "swell: one: has no replica workerpool1-3; did you mean workerpool1-1? [SW2009]\n",
            ),
            (None, ["--replica", "../../x"], "swell: one: has no replica ../../x; there are "),
            (None, ["--since", "5"], "swell: --since: needs a unit; write 5s or 5min [SW1013]\n"),
        ],
    )
    def test_what_cannot_be_shown(self, by: str | None, options: list[str], problem: str) -> None:
        record_run("one", target="local", by=by or home.whoami())
        answer = CliRunner().invoke(app, ["logs", "one", *options])
        assert answer.exit_code == 2
        assert answer.stderr.startswith(problem)

    @pytest.mark.parametrize(
        ("replica", "messages"),
        [
            (None, {"1/workerpool0-0": "one", "2/workerpool0-0": "two"}),
            ("2/workerpool0-0", {"2/workerpool0-0": "two"}),
            ("workerpool0-0", {"1/workerpool0-0": "one", "2/workerpool0-0": "two"}),
        ],
    )
    def test_in_a_fleet_each_line_says_which_job_it_is_of(
        self, replica: str | None, messages: dict[str, str]
    ) -> None:
        directory = record_run("one", target="local", by=home.whoami(), fleet=2)
        for attempt, (job, message) in enumerate([("77", "one"), ("78", "two")], start=1):
            record_attempt(directory, "x", attempt, job=f"{PARENT}/{job}")
            write("workerpool0-0", attempt, message, job=job)
        lines = open_log(directory, replica, None).read_new()
        assert {line.replica: line.message for line in lines} == messages


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestVertex:
    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
        pytest.importorskip("google.cloud.aiplatform_v1")
        with FaultyServer() as server:
            monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", server.endpoint)
            server.entries = self.entries
            yield server

    def entries(self, body: dict[str, Any]) -> dict[str, Any]:
        """Every job has one line, "hello of JOB"."""
        job = body["filter"].partition('job_id="')[2].partition('"')[0]
        entry = {
            "timestamp": f"2026-01-01T12:00:0{job}Z",
            "insertId": job,
            "textPayload": f"hello of {job}",
            "resource": {"labels": {"task_name": "workerpool0-0"}},
        }
        return {"entries": [entry]}

    def log(self, directory: RunDirectory, clock: Clock) -> VertexLog:
        return VertexLog(directory, retries=Retries(ONCE), clock=clock)

    def test_all_jobs_of_a_run_one_after_the_other(self, server: FaultyServer) -> None:
        directory, clock = record_run("one"), Clock()
        record_attempt(directory, server.endpoint, 1, state="FAILED", ended=clock.now - 100)
        record_attempt(directory, server.endpoint, 2)
        log = self.log(directory, clock)
        assert [line.message for line in log.read_new()] == ["hello of 1", "hello of 2"]
        record_attempt(directory, server.endpoint, 2, state="FAILED", ended=clock.now)
        record_attempt(directory, server.endpoint, 3)
        assert [line.message for line in log.read_new()] == ["hello of 3"]
        asked = [body["filter"].partition('job_id="')[2][0] for body in server.bodies]
        assert asked == ["1", "2", "2", "3"], "a job that is long over is not asked about again"

    @pytest.mark.parametrize(
        ("replica", "messages"),
        [
            (None, {"1/workerpool0-0": "hello of 1", "2/workerpool0-0": "hello of 2"}),
            ("2/workerpool0-0", {"2/workerpool0-0": "hello of 2"}),
        ],
    )
    def test_in_a_fleet_each_line_says_which_job_it_is_of(
        self, server: FaultyServer, replica: str | None, messages: dict[str, str]
    ) -> None:
        directory = record_run("one", fleet=2)
        record_attempt(directory, server.endpoint, 1)
        record_attempt(directory, server.endpoint, 2)
        lines = VertexLog(directory, replica, retries=Retries(ONCE)).read_new()
        assert {line.replica: line.message for line in lines} == messages
        tasks = {body["filter"].partition("task_name=")[2][:15] for body in server.bodies}
        assert tasks == ({'"workerpool0-0"'} if replica else {""})

    def test_a_fleet_lives_as_long_as_any_of_its_jobs(self, server: FaultyServer) -> None:
        directory, clock = record_run("one", fleet=2), Clock()
        for number in (1, 2):
            record_attempt(directory, server.endpoint, number)
        server.jobs[f"{PARENT}/1"] = custom_job("one", 1)
        server.jobs[f"{PARENT}/2"] = custom_job("one", 2, state="FAILED")
        log = self.log(directory, clock)
        for _ in range(3):
            assert log.lives()
            clock.now += ASK_EVERY
        server.jobs[f"{PARENT}/1"] = custom_job("one", 1, state="FAILED")
        clock.now += ASK_EVERY
        assert log.lives()
        clock.now += EMULATOR_LINGER
        assert not log.lives()

    def test_it_lives_until_some_time_after_the_outcome(self, server: FaultyServer) -> None:
        directory, clock = record_run("one"), Clock()
        record_attempt(directory, server.endpoint)
        log = self.log(directory, clock)
        assert log.lives()
        directory.end("succeeded", "done")
        assert log.lives()
        clock.now += EMULATOR_LINGER
        assert not log.lives()
        assert server.requests == [], "the run directory said it"

    def test_a_job_that_ends_without_an_outcome_ends_it_unless_there_is_another(
        self, server: FaultyServer
    ) -> None:
        directory, clock = record_run("one"), Clock()
        record_attempt(directory, server.endpoint)
        server.jobs[f"{PARENT}/1"] = custom_job("one", state="EXPIRED")
        log = self.log(directory, clock)
        assert log.lives() and server.requests == []
        clock.now += ASK_EVERY
        assert log.lives()
        record_attempt(directory, server.endpoint, 2)
        clock.now += EMULATOR_LINGER
        assert log.lives(), "somebody has submitted another"
        server.jobs[f"{PARENT}/2"] = custom_job("one", 2, state="PARTIALLY_SUCCEEDED")
        clock.now += ASK_EVERY
        assert log.lives()
        clock.now += EMULATOR_LINGER
        assert not log.lives()

    def test_the_command_follows_to_the_end(self, server: FaultyServer) -> None:
        directory = record_run("one")
        record_attempt(directory, server.endpoint)
        directory.end("succeeded", "done")
        shown = CliRunner().invoke(app, ["logs", "one", "--follow"])
        assert shown.exit_code == 0
        assert shown.stdout.count("hello of 1") == 1
        assert len(server.bodies) > 1

    def test_what_vertex_itself_says_can_be_asked_for(self, server: FaultyServer) -> None:
        record_attempt(record_run("one"), server.endpoint)
        CliRunner().invoke(app, ["logs", "one", "--replica", "service"])
        assert 'task_name="service"' in server.bodies[0]["filter"]

    def test_a_refusal_is_one_line(self, server: FaultyServer) -> None:
        record_attempt(record_run("one"), server.endpoint)
        server.faults = [refuses(403, "PERMISSION_DENIED", "No.")]
        answer = CliRunner().invoke(app, ["logs", "one"])
        assert (answer.exit_code, answer.stdout) == (1, "")
        assert "roles/logging.viewer" in answer.stderr and answer.stderr.count("\n") == 1

    def test_a_run_without_a_job_has_no_lines_yet(self, server: FaultyServer) -> None:
        record_run("one")
        assert CliRunner().invoke(app, ["logs", "one"]).stdout == ""
