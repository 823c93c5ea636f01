"""Why an attempt failed is said where its user looks, not in a replica's log alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher import home
from launcher.lastwords import last_words
from trainer.agent.startup import main, tell
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_ATTEMPT, ENV_RUN_DIR, EXIT_FAILED

JOB = "projects/p/locations/l/customJobs/7"
REASON = "Replica workerpool1-0 exited with status 1; its log says more."
CLUSTER = {
    "cluster": {"workerpool0": ["a"], "workerpool1": ["b"]},
    "task": {"type": "workerpool1", "index": 0},
}
REMEDY = "swell logs r-1 --replica workerpool1-0 has all that it printed"


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def ask(directory: RunDirectory, reason: str = REASON, attempt: int = 1) -> str:
    return last_words(directory, "r-1", attempt, JOB, reason)


def cannot_begin(directory: RunDirectory, why: str, attempt: int = 1) -> None:
    tell(
        {
            ENV_RUN_DIR: directory.url,
            ENV_ATTEMPT: str(attempt),
            "CLUSTER_SPEC": json.dumps(CLUSTER),
        },
        why,
    )


def log(*messages: str) -> None:
    folder = home.local_folder("r-1") / "logs/7"
    folder.mkdir(parents=True)
    entry = {"severity": "ERROR", "timestamp": "2026-01-01T12:00:00Z"}
    lines = [json.dumps({**entry, "message": one}) + "\n" for one in messages]
    (folder / "workerpool1-0.jsonl").write_text("".join(lines))


def test_what_an_agent_that_cannot_begin_has_said_is_told(directory: RunDirectory) -> None:
    cannot_begin(directory, "run.json lacks x [SW4012]")
    cannot_begin(directory, "run.json lacks x [SW4012]")
    cannot_begin(directory, "of another attempt", attempt=2)
    assert ask(directory) == "workerpool1-0: run.json lacks x [SW4012]", "once"
    assert ask(directory, attempt=2) == "workerpool1-0: of another attempt"


def test_many_that_say_the_same_are_not_all_quoted(directory: RunDirectory) -> None:
    for number in range(9):
        cannot_begin(directory, f"no room for {number}")
    assert len(ask(directory).splitlines()) == 3


def test_what_ends_before_there_is_an_agent_is_quoted_from_its_log(directory: RunDirectory) -> None:
    log("Traceback (most recent call last):", "ImportError: libfoo.so", " ")
    assert ask(directory) == f"workerpool1-0 printed last: ImportError: libfoo.so\n{REMEDY}"


def test_where_there_is_no_log_here_it_is_said_how_to_read_it(directory: RunDirectory) -> None:
    assert ask(directory) == REMEDY
    assert ask(directory, "Internal error") == "", "no replica is named"


def test_nothing_is_added_where_the_outcome_says_why(directory: RunDirectory) -> None:
    cannot_begin(directory, "x")
    directory.end("failed", "the program failed")
    assert ask(directory) == ""


@pytest.mark.parametrize(
    "env, told",
    [
        ({}, "SWELL_RUN_DIR must be set: start the image with swell launch [SW4001]"),
        ({ENV_RUN_DIR: "no-such-scheme://x", ENV_ATTEMPT: "one"}, "no-such-scheme"),
    ],
)
def test_whoever_cannot_tell_is_not_kept_from_ending(
    env: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in (ENV_RUN_DIR, ENV_ATTEMPT):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main() == EXIT_FAILED
    assert told in capsys.readouterr().err
