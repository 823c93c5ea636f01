"""The Cloud Logging client against a server that misbehaves, and against the emulator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.api.apierror import ApiError
from launcher.api.retry import Retries
from launcher.logs.cloudlog import CloudLog, read_entry
from launcher.logs.logline import SECOND, Line, format_time, parse_time
from tests.launcher.faulty_server import (
    Fault,
    FaultyServer,
    cut_off,
    hangs,
    refuses,
    resets_after,
    resets_before,
    says,
)
from trainer.rundir.retry import Backoff

from ..emulator.running import PARENT, Emulator, pool

pytest.importorskip("google.auth")
pytest.importorskip("requests")

JOB = "projects/p/locations/us-central1/customJobs/77"
NOON = parse_time("2026-01-01T12:00:00Z")
QUICK = Retries(Backoff(limit=60.0), clock=lambda: 0.0, sleep=lambda _: None)


class Log:
    """What the server has; entries may be added at any place in time."""

    def __init__(self, page: int = 3) -> None:
        self.entries: list[dict[str, Any]] = []
        self.page = page

    def add(self, seconds: float, message: str, key: str = "") -> None:
        self.entries.append(
            {
                "timestamp": format_time(NOON + int(seconds * SECOND)),
                "insertId": key or message,
                "resource": {"labels": {"task_name": "workerpool0-0"}},
                "jsonPayload": {"message": message},
            }
        )

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        since = re.search('timestamp>="([^"]*)"', body["filter"])
        start = parse_time(since[1]) if since else 0
        there = sorted(
            (entry for entry in self.entries if parse_time(entry["timestamp"]) >= start),
            key=lambda entry: (parse_time(entry["timestamp"]), entry["insertId"]),
        )
        first = int(body.get("pageToken", 0))
        page: dict[str, Any] = {"entries": there[first : first + self.page]}
        if first + self.page < len(there):
            page["nextPageToken"] = str(first + self.page)
        return page


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def log(server: FaultyServer) -> Log:
    log = Log()
    server.entries = log.answer
    return log


def client(server: FaultyServer, **options: Any) -> CloudLog:
    options = {"retries": QUICK, "timeout": 5.0, "clock": lambda: NOON + 3600 * SECOND, **options}
    return CloudLog(JOB, server.endpoint, **options)


def messages(lines: Iterator[Line]) -> list[str]:
    return [line.message for line in lines]


def test_what_is_asked(server: FaultyServer, log: Log) -> None:
    assert list(client(server, replica="workerpool1-0", since=NOON).read_new()) == []
    assert server.bodies == [
        {
            "resourceNames": ["projects/p"],
            "filter": 'resource.type="ml_job" AND resource.labels.job_id="77" AND '
            'resource.labels.task_name="workerpool1-0" AND '
            'timestamp>="2026-01-01T12:00:00.000000000Z"',
            "orderBy": "timestamp asc",
            "pageSize": 1000,
        }
    ]


def test_late_lines_and_lines_of_one_time_are_read_once(server: FaultyServer, log: Log) -> None:
    reader = client(server)
    for number in range(7):
        log.add(0.5, f"same time {number}")
    log.add(20, "twenty")
    assert messages(reader.read_new()) == [*(f"same time {n}" for n in range(7)), "twenty"]
    log.add(0.5, "same time, late")
    log.add(3, "three, late")
    log.add(20, "twenty", key="another of the same text")
    log.add(21, "new")
    assert messages(reader.read_new()) == ["same time, late", "three, late", "twenty", "new"]
    assert messages(reader.read_new()) == []
    assert len(server.bodies) == 3 + 4 + 4


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(refuses(429, "RESOURCE_EXHAUSTED"), id="429"),
        pytest.param(refuses(503, "UNAVAILABLE"), id="503"),
        pytest.param(resets_before, id="reset before"),
        pytest.param(resets_after, id="reset after"),
        pytest.param(cut_off, id="cut off"),
        pytest.param(hangs, id="hangs"),
        pytest.param(says(200, b'{"entries": [{"timest'), id="malformed JSON"),
        pytest.param(says(200, b"<html>"), id="a page"),
        pytest.param(says(200, b"[]"), id="not an object"),
        pytest.param(says(200, b'{"entries": 7}'), id="another type"),
    ],
)
def test_faults_between_pages_lose_and_repeat_nothing(
    server: FaultyServer, log: Log, fault: Fault
) -> None:
    for number in range(8):
        log.add(number, str(number))
    reader = client(server, timeout=0.5)
    server.faults = [fault, None, fault, fault, None]
    assert messages(reader.read_new()) == [str(number) for number in range(8)]


def test_after_an_error_reading_goes_on_where_it_was(server: FaultyServer, log: Log) -> None:
    for number in range(8):
        log.add(number, str(number))
    reader = client(server, retries=Retries(Backoff(limit=0.0)))
    server.faults = [None, refuses(503, "UNAVAILABLE", "Overloaded.")]
    lines = reader.read_new()
    assert [next(lines).message for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(ApiError, match="503 Overloaded"):
        next(lines)
    assert messages(reader.read_new()) == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_is_one_line_and_asked_once(server: FaultyServer, log: Log, code: int) -> None:
    server.faults = [refuses(code, "NO", "No.")]
    with pytest.raises(ApiError) as raised:
        list(client(server).read_new())
    assert (raised.value.code, len(server.requests)) == (code, 1)


def test_a_server_whose_pages_never_end_is_left(server: FaultyServer) -> None:
    server.entries = lambda body: {"entries": [], "nextPageToken": "again"}
    with pytest.raises(ApiError, match="same page again"):
        list(client(server).read_new())


def test_empty_pages_on_the_way_are_not_the_end(server: FaultyServer) -> None:
    entry = {"timestamp": "2026-01-01T12:00:00Z", "insertId": "a", "textPayload": "found"}
    pages: list[dict[str, Any]] = [
        {"nextPageToken": "1"},
        {"entries": [], "nextPageToken": "2"},
        {"entries": [entry]},
    ]
    server.entries = lambda body: pages.pop(0)
    assert messages(client(server).read_new()) == ["found"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"textPayload": "text"}, "text"),
        ({"jsonPayload": {"message": "text", "levelname": "INFO"}}, "text"),
        ({"jsonPayload": {"other": 1}}, '{"other": 1}'),
        ({"jsonPayload": {"message": ""}}, ""),
        ({"jsonPayload": 5, "resource": 7}, "5"),
        ({}, ""),
    ],
)
def test_every_form_of_payload_is_read(entry: dict[str, Any], message: str) -> None:
    line = read_entry({"timestamp": "2026-01-01T12:00:00Z", **entry})
    assert line is not None
    assert (line.time, line.replica, line.message) == (NOON, "service", message)


@pytest.mark.parametrize("entry", [None, 5, [], {}, {"timestamp": "yesterday"}, {"timestamp": []}])
def test_what_is_no_entry_is_left_out(entry: Any) -> None:
    assert read_entry(entry) is None


def test_the_emulator_serves_the_same(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = Emulator(tmp_path / "state", "--until-eof")
    monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", emulator.endpoint)
    try:
        with pytest.raises(ApiError, match="; point SWELL_VERTEX_TOKEN_FILE at the file token"):
            list(CloudLog(f"{PARENT[4:]}/1", emulator.endpoint, retries=QUICK).read_new())
        monkeypatch.setenv("SWELL_VERTEX_TOKEN_FILE", str(tmp_path / "state/token"))
        path = emulator.create(pool("for i in 1 2 3; do echo line $i; done; echo oops >&2"))
        emulator.until(path, "SUCCEEDED")
        name = path.removeprefix("/v1/")
        reader = CloudLog(name, emulator.endpoint, retries=QUICK)
        lines = list(reader.read_new())
        assert sorted(line.message for line in lines) == ["line 1", "line 2", "line 3", "oops"]
        assert [line.time for line in lines] == sorted(line.time for line in lines)
        assert {line.replica for line in lines} == {"workerpool0-0"}
        assert [line.message for line in lines if line.severity == "ERROR"] == ["oops"]
        assert list(reader.read_new()) == []
        other = CloudLog(name, emulator.endpoint, replica="workerpool1-0", retries=QUICK)
        assert list(other.read_new()) == []
    finally:
        assert emulator.stop() == 0
