"""Log lines that Cloud Logging understands."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.logs import ReplicaLog, read_entries
from trainer.telemetry import logs
from trainer.telemetry.logs import LABELS, configure, log_event

VERTEX = {"CLOUD_ML_JOB_ID": "7", "SWELL_RUN_ID": "digits-1", "SWELL_ATTEMPT": "2"}


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A root logger of the test's own."""
    root = logging.Logger("root", logging.INFO)
    monkeypatch.setattr(
        logs.logging,  # type: ignore[attr-defined]
        "basicConfig",
        lambda level, handlers: root.addHandler(handlers[0]),
    )
    events = logging.Logger("swell.events")
    events.parent = root
    monkeypatch.setattr(logs, "log", events)
    yield root


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_in_a_container_of_vertex_a_record_is_one_object(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure(VERTEX, stream, "host-1")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        root.exception("it failed: %s", "ü")
    (line,) = lines(stream)
    assert line["severity"] == "ERROR"
    assert line["message"].startswith("it failed: ü\nTraceback") and "two\nlines" in line["message"]
    assert line[LABELS] == {
        "swell_run": "digits-1",
        "swell_attempt": "2",
        "swell_replica": "host-1",
        "swell_logger": "root",
    }


def test_elsewhere_it_is_text(root: logging.Logger) -> None:
    for env, is_json in (({}, False), ({**VERTEX, logs.FORMAT: "text"}, False), (VERTEX, True)):
        assert logs.is_structured(env) == is_json
    stream = io.StringIO()
    configure({}, stream)
    root.warning("a word")
    assert stream.getvalue().endswith("root: a word\n")


def test_an_event_is_an_entry_with_its_severity(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure(VERTEX, stream)
    log_event({"event": "steps", "time": 1.0, "first": 1})
    log_event({"event": "drain", "time": 1.0, "member": "workerpool1-0"})
    log_event({"event": "loss", "time": 1.0, "member": "workerpool1-0", "reason": "a\nb"})
    drain, loss = lines(stream)
    assert (drain["severity"], drain["message"]) == ("INFO", "drain: member: workerpool1-0")
    assert (loss["severity"], loss[LABELS]["swell_event"]) == ("WARNING", "loss")
    assert loss["message"] == "loss: member: workerpool1-0; reason: b", "the end of a traceback"


def test_who_reads_lines_is_not_told_of_events_there(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure({}, stream)
    log_event({"event": "drain", "time": 1.0, "member": "workerpool1-0"})
    assert stream.getvalue() == ""


def test_a_message_without_end_is_still_an_object(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure(VERTEX, stream)
    root.info("\N{SNOWMAN}\udc80" * 10**5)
    (line,) = lines(stream)
    assert 100 < len(line["message"]) < len(stream.getvalue()) <= logs.LIMIT + 1


def entries(folder: Path, *messages: str) -> list[dict[str, Any]]:
    """What the emulator's Cloud Logging has of lines that a replica prints to stderr."""
    log = ReplicaLog(
        folder, "7", "workerpool0-0", lambda: datetime(2026, 1, 1, tzinfo=timezone.utc)
    )
    log.stream("ERROR").feed("".join(f"{one}\n" for one in messages).encode())
    log.close()
    return list(read_entries(folder, None, None))


def test_the_emulator_reads_it_as_cloud_logging_does(tmp_path: Path, root: logging.Logger) -> None:
    stream = io.StringIO()
    configure(VERTEX, stream)
    root.info("a word")
    (entry,) = entries(tmp_path, stream.getvalue().rstrip())
    assert (entry["severity"], entry["jsonPayload"]) == ("INFO", {"message": "a word"})
    assert entry["labels"]["swell_run"] == "digits-1"


@pytest.mark.parametrize(
    "line",
    ["{}", "{x}", '{"message": 1}', '{"severity": "INFO"}', "[" * 9, '{"a": ' + "[" * 9000 + "}"],
)
def test_what_is_no_such_object_is_text(tmp_path: Path, line: str) -> None:
    (entry,) = entries(tmp_path, line)
    assert (entry["severity"], entry["jsonPayload"]) == ("ERROR", {"message": line})
    assert "labels" not in entry


def test_a_severity_that_there_is_not_is_that_of_the_stream(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, '{"message": "m", "severity": "LOUD"}')
    assert (entry["severity"], entry["jsonPayload"]) == ("ERROR", {"message": "m"})
