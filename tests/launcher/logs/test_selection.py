"""Which lines of a log are wanted: by how bad they are, and by what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher import home
from launcher.cli import app
from launcher.logs.logline import SECOND, Line, format_time
from launcher.logs.selection import LEVELS, Selection, level_of
from tests.launcher.faulty_server import FaultyServer
from tests.launcher.recorded_run import SPEC, record_attempt, record_run
from tests.storage import storage_server
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory

PRINTED = [
    ("INFO", "step 1"),
    ("INFO", "2026-01-01 12:00:00,123 WARNING swell.agent: slow"),
    ("ERROR", "INFO:root:all is well"),
    ("ERROR", "Traceback (most recent call last):"),
]


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def line(message: str, severity: str = "INFO") -> Line:
    return Line(SECOND, "workerpool0-0", severity, message)


@pytest.mark.parametrize(
    ("severity", "message", "level"),
    [
        ("INFO", "step 1", "INFO"),
        ("ERROR", "step 1", "ERROR"),
        ("ERROR", "WARNING:root:slow", "WARNING"),
        ("ERROR", "2026-01-01 12:00:00,123 INFO swell.agent: joined", "INFO"),
        ("INFO", "2026-01-01T12:00:00.5Z ERROR it broke", "ERROR"),
        ("INFO", "[2026-01-01T12:00:00] [WARN] slow", "WARNING"),
        ("ERROR", '{"message": "m", "severity": "debug"}', "DEBUG"),
        ("INFO", '{"levelname": "FATAL", "message": "m"}', "CRITICAL"),
        ("INFO", "ERRORS: 0", "INFO"),
        ("INFO", "this ERROR is told in the middle of it", "INFO"),
        ("INFO", "Error: it is no level of a log", "INFO"),
        ("ERROR", '{"severity": "purple"}', "ERROR"),
        ("warning", "as the log has it", "WARNING"),
        ("of tomorrow", "what nobody knows", "DEFAULT"),
        ("INFO", "", "INFO"),
    ],
)
def test_a_line_is_as_bad_as_it_says_else_as_the_log_has_it(
    severity: str, message: str, level: str
) -> None:
    assert level_of(line(message, severity)) == level


def test_a_level_takes_what_is_worse_too() -> None:
    wanted = Selection.of("warning", None)
    taken = [level for level in LEVELS if wanted.takes(line("said", level))]
    assert taken == ["WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"]
    assert Selection.of("Warn", None) == wanted, "as people write it"


def test_a_pattern_is_found_anywhere_and_colours_are_no_part_of_it() -> None:
    wanted = Selection.of(None, r"loss \d")
    assert wanted.takes(line("step 7, loss 3.5"))
    assert wanted.takes(line("loss \x1b[31m3.5\x1b[0m"))
    assert wanted.takes(line("one\ntwo: loss 3"))
    assert not wanted.takes(line("Loss 3"))
    assert Selection.of(None, "(?i)loss").takes(line("Loss 3"))


def test_without_options_every_line_is_taken() -> None:
    wanted = Selection.of(None, None)
    assert all(wanted.takes(line("said", level)) for level in (*LEVELS, "of tomorrow"))


def test_the_command_prints_these_of_a_local_run() -> None:
    record_run("one", target="local", by=home.whoami())
    path = home.local_folder("one") / "logs/77/workerpool0-0.jsonl"
    path.parent.mkdir(parents=True)
    for second, (severity, message) in enumerate(PRINTED, 1):
        entry = {"timestamp": format_time(second * SECOND), "severity": severity}
        with path.open("a") as file:
            file.write(json.dumps({**entry, "message": message}) + "\n")

    def printed(*options: str) -> list[int]:
        answer = CliRunner().invoke(app, ["logs", "one", "--json", *options])
        assert answer.exit_code == 0, answer.output
        said = [json.loads(one)["message"] for one in answer.stdout.splitlines()]
        return [number for number, (_, message) in enumerate(PRINTED) if message in said]

    assert printed() == [0, 1, 2, 3]
    assert printed("--level", "warning") == [1, 3]
    assert printed("--level", "error", "--follow") == [3]
    assert printed("--grep", "^(step|INFO)") == [0, 2]
    assert printed("--level", "warning", "--grep", "slow") == [1]


@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_the_command_prints_these_of_a_run_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follow: tuple[str, ...]
) -> None:
    pytest.importorskip("google.cloud.aiplatform_v1")

    def entries(body: dict[str, Any]) -> dict[str, Any]:
        labels = {"task_name": "workerpool0-0"}
        times = (f"2026-01-01T12:00:0{second}Z" for second in range(len(PRINTED)))
        said = zip(times, PRINTED, strict=True)
        found = [
            {"timestamp": at, "insertId": at, "severity": severity, "textPayload": message}
            for at, (severity, message) in said
        ]
        return {"entries": [{**one, "resource": {"labels": labels}} for one in found]}

    with storage_server(tmp_path / "buckets") as storage, FaultyServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
        monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", server.endpoint)
        server.entries = entries
        storage.objects.create_bucket("bucket")
        directory = RunDirectory("gs://bucket/one")
        run = {"id": "one", "target": "vertex", "created": 1e9, "by": "x", "spec": SPEC}
        directory.write_json("run.json", {**run, **formats.RUN.stamp()})
        record_attempt(directory, server.endpoint)
        directory.end("succeeded", "done")
        options = ["--level", "warning", "--grep", "slow|Trace", *follow]
        answer = CliRunner().invoke(app, ["logs", directory.url, *options])
        assert answer.exit_code == 0, answer.output
        texts = [one.split(" ", 2)[2] for one in answer.stdout.splitlines()]
        assert texts == [PRINTED[1][1], PRINTED[3][1]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ["--level", "loud"],
            "swell: --level loud: is no level; there are debug, info, notice, warning, error, "
            "critical, alert, emergency [SW6260]\n",
        ),
        (
            ["--grep", "f(x"],
            "swell: --grep f(x: is no regular expression: missing ), unterminated subpattern at "
            r"position 1; put a backslash before a character that stands for itself, such as \( "
            "or \\[ [SW6261]\n",
        ),
    ],
)
def test_what_is_no_selection_is_told_in_a_line(options: list[str], problem: str) -> None:
    record_run("one", target="local", by=home.whoami())
    answer = CliRunner().invoke(app, ["logs", "one", *options])
    assert (answer.exit_code, answer.stderr) == (2, problem)
