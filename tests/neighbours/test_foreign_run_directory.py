"""Somebody else's run directory: what it says reaches no terminal, and what it names no socket."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from launcher.draft import reopen
from launcher.home import checkpoint_directories, within
from launcher.supervision.attempt import read_attempts
from launcher.supervision.cancel import cancel_run
from launcher.terminal import visible
from tests.integration.command import Swell
from tests.launcher.recorded_run import SPEC
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[/b]"


class Trap(ThreadingHTTPServer):
    """A server that nobody has a reason to ask."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Trapped)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Trapped(BaseHTTPRequestHandler):
    server: Trap

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
        self.send_response(404)
        self.end_headers()

    do_POST = do_HEAD = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def trap() -> Iterator[Trap]:
    trap = Trap()
    thread = threading.Thread(target=trap.serve_forever)
    thread.start()
    yield trap
    trap.shutdown()
    thread.join()
    trap.server_close()


@pytest.mark.parametrize("writer", [False, True])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, writer: bool) -> None:
    """Neither for whoever would open its other end, nor for what they would write."""
    folder = foreign(tmp_path / "a-run")
    (folder / "events" / "a-writer").mkdir(parents=True)
    pipes = ["outcome.json", "attempts/0001.json", "events/a-writer/000000.jsonl"]
    (folder / "attempts").mkdir()
    held = []
    for pipe in pipes:
        os.mkfifo(folder / pipe)
        if writer:
            held.append(os.open(folder / pipe, os.O_RDWR))
    directory = RunDirectory(str(folder))
    for pipe in pipes:
        assert directory.store.read(pipe) == b""
    with pytest.raises(ValueError, match=r"outcome\.json is damaged"):
        directory.outcome()
    with pytest.raises(ValueError, match=r"0001\.json is damaged"):
        read_attempts(directory)
    assert [event["event"] for event in read_events(directory)] in ([], ["unreadable"])
    for handle in held:
        os.close(handle)


def foreign(folder: Path, target: str = "vertex", run_id: str = "a-run", **spec: Any) -> Path:
    """Writes a run directory that was made to do harm."""
    directory = RunDirectory(str(folder))
    record = {"id": run_id, "target": target, "spec": {**SPEC, **spec}, "created": 1e9}
    directory.write_json("run.json", {**record, "by": EVIL, **formats.RUN.stamp()})
    return folder


def told(folder: Path, trap: Trap) -> None:
    """Puts hostile texts, and the trap's address, wherever a run directory has either."""
    directory = RunDirectory(str(folder))
    attempt = {"attempt": 1, "region": f"us-central1{EVIL}", "endpoint": trap.url, "job": EVIL}
    attempt |= {"state": EVIL, "reason": EVIL, "choice": EVIL, "left": EVIL, "kind": EVIL}
    directory.write_json("attempts/0001.json", attempt)
    job = {"job": "projects/p/locations/us-central1/customJobs/1", "region": "us-central1"}
    directory.write_json("attempts/0002.json", {**attempt, **job, "attempt": 2})
    events = [
        {"event": "steps", "time": 1.0, "first": 1, "last": 2, "metrics": {EVIL: [1.0, 2.0]}},
        {
            "event": "generation_formed",
            "time": 1.0,
            "generation": 1,
            "cause": EVIL,
            "world_size": 2,
        },
        {"event": "failed", "time": 1.0, "reason": EVIL, "replica": EVIL, "member": EVIL},
        {"event": "checkpoint_failed", "time": 2.0, "step": 5, "reason": EVIL, "path": EVIL},
        {"event": EVIL, "time": 3.0},
    ]
    lines = [json.dumps({"format": 2}), *map(json.dumps, events)]
    directory.store.write("events/writer/000000.jsonl", "\n".join(lines).encode())
    manifest = {"format": 3, "step": 5, "about": {"world_size": EVIL}, "shards": EVIL}
    directory.write_json("checkpoints/step-000000005/manifest.json", manifest)


@pytest.mark.parametrize("target", ["vertex", "local"])
def test_nothing_that_it_says_is_obeyed_and_nothing_that_it_names_is_asked(
    target: str, tmp_path: Path, trap: Trap
) -> None:
    folder = foreign(
        tmp_path / "foreign", target, checkpoint={"buckets": {"us-central1": trap.url}}
    )
    told(folder, trap)
    swell = Swell(tmp_path)
    run = str(folder)
    here = [("attach", run), ("preempt", run, f"workerpool1-0{EVIL}"), ("status", run)]
    there = [("status", run), ("checkpoints", run, "--verify"), ("logs", run), ("cancel", run)]
    for command in here if target == "local" else there:
        answer = swell(*command)
        said = answer.stdout + answer.stderr
        assert visible(said) == said, command
        assert "Traceback" not in said, (command, said)
    assert trap.asked == []


@pytest.mark.parametrize("run_id", ["../../x", "/etc", "a/b", "", EVIL, "-", None, 7.5])
def test_its_id_is_one_or_it_is_refused(run_id: Any, tmp_path: Path) -> None:
    directory = RunDirectory(str(foreign(tmp_path / "foreign", run_id=run_id)))
    for enter in (home.read_run, cancel_run, reopen):
        with pytest.raises(ValueError, match=r"is not a run id|is damaged"):
            enter(directory)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_checkpoints_are_looked_for_where_the_user_or_this_machine_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    elsewhere = str(tmp_path / "elsewhere")
    buckets = {"us-central1": elsewhere, "us-east1": "memory://evil/x"}
    directory = RunDirectory(str(foreign(tmp_path / "run", checkpoint={"buckets": buckets})))
    opened, left = checkpoint_directories(directory)
    assert [one.url for one in opened] == [directory.url]
    assert left == [f"{elsewhere}/a-run", "memory://evil/x/a-run"]
    opened, left = checkpoint_directories(directory, [elsewhere])  # a job file's
    assert [one.url for one in opened] == [directory.url, f"{elsewhere}/a-run"]
    assert left == ["memory://evil/x/a-run"]

    own = home.directory_for("own", None)
    record = {"id": "own", "target": "vertex", "spec": {**SPEC, "checkpoint": {"buckets": buckets}}}
    home.create(own, {**record, "created": 1e9, **formats.RUN.stamp()})
    buckets["us-west1"] = "memory://later"  # what somebody has written into it since
    own.write_json("run.json", {**record, "created": 1e9, **formats.RUN.stamp()})
    opened, left = checkpoint_directories(own)
    assert len(opened) == 3 and left == ["memory://later/own"]
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("own", "url", "is_within"),
    [
        ("gs://bucket-b/runs/1", "gs://bucket-b/other/1", True),
        ("gs://bucket-b/runs/1", "gs://bucket-b", False),
        ("gs://bucket-b/runs/1", "gs://bucket-bb/runs/1", False),
        ("gs://bucket-b/runs/1", "gs://b@evil/1", False),
        ("gs://bucket-b/runs/1", "s3://b/runs/1", False),
        ("gs://bucket-b/runs/1", "gs://bucket-b/x::http://evil", False),
        ("gs://bucket-b/runs/1", "/runs/1", False),
        ("/runs/1", "/runs/1/more", True),
        ("/runs/1", "/runs/2", False),
        ("/runs/1", "/runs/1/../2", False),
        ("/runs/1", "http://evil", False),
        ("/runs/1", "file:///runs/1/more", False),
    ],
)
def test_what_is_in_its_own_bucket(own: str, url: str, is_within: bool) -> None:
    assert within(url, own) == is_within
