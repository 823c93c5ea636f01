"""The webhook, with a real HTTP server: what it is told, and that it never holds a run up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from launcher.draft import LaunchError
from launcher.job.job import Job
from launcher.job.notify import News, Notify
from launcher.job.pool import Pool
from launcher.run import launch
from launcher.status.stalls import Lookout
from launcher.supervision.webhook import (
    Patience,
    Webhook,
    WebhookError,
    end_message,
    find_url,
    message_of,
)
from tests.httpserver import LocalServer
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events
from trainer.rundir.retry import ONCE, Backoff

POOLS = [Pool(machine="a2-highgpu-1g")]
SECRET = "T0/B0/verysecret"
STOCKOUT = {"event": "stockout", "time": 1.0, "attempt": 1, "region": "us-east1", "reason": "none"}


class Server(LocalServer):
    """Takes POSTs. ``answers`` are the status codes of the next ones, 200 after that."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[dict[str, Any]] = []
        self.hang = threading.Event()
        self.hang.set()  # it does not hang
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.got.append(json.loads(body))
                server.hang.wait()
                code = server.answers.pop(0) if server.answers else 200
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", f"{server.url}/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(Handler)
        self.url += f"/services/{SECRET}"

    def __exit__(self, *error: object) -> None:
        self.hang.set()
        super().__exit__(*error)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def told(
    url: str, run_dir: RunDirectory, *events: dict[str, Any], on: list[News] | None = None
) -> None:
    """Lets a webhook live through a run that has these events and succeeds."""
    notify = Notify(url_env="A", on=on) if on else Notify(url_env="A")
    twice_again = Backoff(first=0.001, longest=0.001, limit=0.002, jitter=0.0)
    patience = Patience(timeout=0.2, backoff=twice_again, closing=5.0)
    with Webhook(notify, url, "llama-1", run_dir, patience, clock=lambda: 7.0) as webhook:
        for event in events:
            webhook.hear(event)
        run_dir.end("succeeded", "training is complete", metrics={"loss": 0.5})


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def failures(run_dir: RunDirectory) -> list[str]:
    return [e["reason"] for e in read_events(run_dir) if e["event"] == "notification_failed"]


def test_stockout_failover_and_end_are_told(server: Server, run_dir: RunDirectory) -> None:
    started = {"event": "attempt_started", "time": 2.0, "job": "j", "region": "us-west1"}
    told(server.url, run_dir, {**started, "attempt": 1}, STOCKOUT, {**started, "attempt": 2})
    common = {"run": "llama-1", "url": run_dir.url, "time": 7.0}
    assert server.got == [
        {
            "text": "swell: run llama-1: no capacity in us-east1 (none)",
            "news": "stockout",
            "attempt": 1,
            "region": "us-east1",
            "reason": "none",
            **common,
        },
        {
            "text": "swell: run llama-1 goes on in us-west1, attempt 2",
            "news": "failover",
            "attempt": 2,
            "region": "us-west1",
            **common,
        },
        {
            "text": "swell: run llama-1 is complete",
            "news": "end",
            "state": "succeeded",
            "reason": "training is complete",
            "metrics": {"loss": 0.5},
            **common,
        },
    ]
    assert failures(run_dir) == []


@pytest.mark.parametrize("late", [False, True])
def test_an_end_of_before_is_told_by_one_that_may_have_missed_it_alone(
    server: Server, run_dir: RunDirectory, late: bool
) -> None:
    run_dir.end("succeeded", "training is complete")
    with Webhook(Notify(url_env="A"), server.url, "one", run_dir, late=late):
        pass
    assert [one["news"] for one in server.got] == (["end"] if late else [])


def test_a_stall_is_told_once_and_when_it_is_over(server: Server, run_dir: RunDirectory) -> None:
    events, now = EventWriter(run_dir, "leader-000001", lambda: now[0]), [1000.0]
    events.emit("leader_changed", term=1, member="workerpool0-0", attempt=1)
    events.emit("held_up", reason="1 of 2 slots are ready", seconds=600.0)
    events.flush()
    run_dir.create_json("attempts/0001.json", {"attempt": 1, "state": "RUNNING"})
    patience = Patience(looking=0.01)
    look = Lookout(run_dir, 1000.0, lambda: now[0]).look
    with Webhook(Notify(url_env="A"), server.url, "one", run_dir, patience, look):
        until(lambda: len(server.got) == 1)
        now[0] = 1050.0
        events.emit("resumed", step=0, cause="start")
        events.flush()
        until(lambda: len(server.got) == 2)
    assert [(one["news"], one["over"], one["since"]) for one in server.got] == [
        ("stall", False, 400.0),
        ("stall", True, 400.0),
    ]
    assert server.got[0]["waits_for"] == "1 of 2 slots are ready"
    assert server.got[1]["text"] == "swell: run one goes on after 10:50 without a step"


def test_only_what_is_asked_for_is_told(server: Server, run_dir: RunDirectory) -> None:
    told(server.url, run_dir, STOCKOUT, on=["end"])
    assert [one["news"] for one in server.got] == ["end"]


def test_an_end_that_was_before_is_not_told_again(server: Server, run_dir: RunDirectory) -> None:
    run_dir.end("failed", "long ago")
    told(server.url, run_dir)
    assert server.got == []


@pytest.mark.parametrize("code", [500, 503, 429])
def test_what_may_pass_is_tried_again(server: Server, run_dir: RunDirectory, code: int) -> None:
    server.answers = [code, code]
    told(server.url, run_dir)
    assert len(server.got) == 3
    assert failures(run_dir) == []


@pytest.mark.parametrize(("code", "tries"), [(500, 3), (404, 1), (302, 1)])
def test_what_cannot_be_told_is_on_record_without_the_url(
    server: Server, run_dir: RunDirectory, code: int, tries: int
) -> None:
    server.answers = [code] * 3
    told(server.url, run_dir)
    assert len(server.got) == tries
    assert failures(run_dir) == [f"the webhook was not told: it answers HTTP {code}"]
    assert SECRET not in str(read_events(run_dir))


def test_a_server_that_hangs_holds_nobody_up(server: Server, run_dir: RunDirectory) -> None:
    server.hang.clear()
    told(server.url, run_dir)
    assert len(server.got) == 3
    assert failures(run_dir) == ["the webhook was not told: it does not answer within 0.2 s"]


def test_a_server_that_trickles_holds_nobody_up(run_dir: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"X: y\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        notify = Notify(url_env="A")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        patience = Patience(timeout=0.2, backoff=ONCE, closing=0.3)
        with Webhook(notify, url, "one", run_dir, patience):
            run_dir.end("succeeded", "")
        stop.set()
        thread.join()
    # Either it gave up in time, or the answer had become too long to be one.
    assert len(failures(run_dir)) == 1


def test_nobody_there(run_dir: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told(f"http://127.0.0.1:{port}/{SECRET}", run_dir)
    assert failures(run_dir) == [
        "the webhook was not told: it cannot be reached: Connection refused"
    ]


def test_no_http(run_dir: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(3):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        told(f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}", run_dir)
        thread.join()
    assert failures(run_dir) == ["the webhook was not told: its answer is not HTTP (BadStatusLine)"]


def test_events_that_are_not_news_and_broken_ones_are_none() -> None:
    assert message_of({"event": "resumed", "time": 1.0}) is None
    assert message_of({"event": "attempt_started", "time": 1.0, "attempt": "x"}) is None
    assert message_of({"event": "attempt_started", "time": 1.0, "attempt": 1}) is None
    second = {"event": "attempt_started", "time": 1.0, "attempt": 2, "region": "r"}
    assert message_of(second) is not None and message_of({**second, "beside": True}) is None
    assert message_of({**STOCKOUT, "beside": True}) is None, "the run goes on meanwhile"


def test_metrics_that_json_lacks_are_told_by_name() -> None:
    for loss in (float("nan"), "nan"):  # as older versions wrote it, and as it is written now
        message = end_message({"state": "succeeded", "metrics": {"loss": loss, "odd": None}})
        assert message["metrics"] == {"loss": "nan"}


def test_a_traceback_is_not_told() -> None:
    message = end_message({"state": "failed", "reason": "the task raised\nTraceback:\n  secret"})
    assert message["text"] == "has failed: the task raised"
    assert "secret" not in json.dumps(message)


def test_a_writers_listener_hears_each_event_once(run_dir: RunDirectory) -> None:
    heard: list[dict[str, Any]] = []
    writer = EventWriter(run_dir, "launcher", lambda: 1.0, heard.append)
    writer.emit("stockout", region="r", reason=None)
    writer.flush()
    assert heard == [{"event": "stockout", "time": 1.0, "region": "r"}] == read_events(run_dir)


def test_a_webhook_is_tried_four_times_by_itself() -> None:
    assert list(Patience().backoff.waits()) == [3.0, 6.0, 12.0], "as docs/job.md says"


def test_the_url_is_found(tmp_path: Path) -> None:
    assert find_url(Notify(url_env="HOOK"), {"HOOK": " https://a/b\n"}) == "https://a/b"
    (tmp_path / "hook").write_text("http://localhost:1/x\n")
    assert find_url(Notify(url_file=str(tmp_path / "hook"))) == "http://localhost:1/x"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "the variable HOOK is missing or empty; put the webhook's URL there"),
        ("  ", "the variable HOOK is missing or empty; put the webhook's URL there"),
        (SECRET, "the variable HOOK does not hold an http:// or https:// URL; put one there"),
        (
            f"ftp://{SECRET}",
            "the variable HOOK does not hold an http:// or https:// URL; put one there",
        ),
        (
            f"https:///{SECRET}",
            "the variable HOOK does not hold an http:// or https:// URL; put one there",
        ),
        (
            f"https://[{SECRET}",
            "the variable HOOK does not hold an http:// or https:// URL; put one there",
        ),
        (
            f"https://a/{SECRET}\nX: y",
            "the variable HOOK does not hold an http:// or https:// URL; put one there",
        ),
    ],
)
def test_a_url_that_is_none_is_said_without_it(value: str | None, why: str) -> None:
    with pytest.raises(WebhookError) as caught:
        find_url(Notify(url_env="HOOK"), {} if value is None else {"HOOK": value})
    assert str(caught.value) == f"notify.url_env: {why}"


def test_a_launch_without_its_webhook_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NO_SUCH_HOOK", raising=False)
    job = Job(name="x", task="m:C", pools=POOLS, notify=Notify(url_env="NO_SUCH_HOOK"))
    with pytest.raises(LaunchError, match=r"notify\.url_env: the variable NO_SUCH_HOOK is missing"):
        launch(job)
    assert home.urls() == {}
