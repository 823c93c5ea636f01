"""``swell cancel`` of a run that nobody on this machine looks after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher import home
from launcher.api.apierror import ApiError
from launcher.api.retry import Retries
from launcher.cli import app
from launcher.supervision.attempt import read_attempts
from launcher.supervision.attendance import Attendant
from launcher.supervision.attendance import record_name as attendant_name
from launcher.supervision.cancel import cancel_run
from launcher.supervision.controllers import ControllerRecord, read_controllers, record_name
from tests.launcher.faulty_server import FaultyServer, Handler, refuses, resets_after
from tests.launcher.recorded_run import PARENT, custom_job, record_attempt, record_run
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.retry import Backoff

pytest.importorskip("google.cloud.aiplatform_v1")

QUICK = Retries(Backoff(limit=60.0), clock=lambda: 0.0, sleep=lambda _: None)


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", server.endpoint)
        yield server


def add(server: FaultyServer, job: dict[str, Any]) -> None:
    server.jobs[job["name"]] = job


def training(server: FaultyServer) -> RunDirectory:
    """A run with one attempt, whose CustomJob runs."""
    directory = record_run("one")
    record_attempt(directory, server.endpoint)
    add(server, custom_job("one"))
    return directory


def cancel(directory: RunDirectory) -> str:
    return cancel_run(directory, retries=QUICK, sleep=lambda _: None)


def events(directory: RunDirectory) -> list[str]:
    return [event["event"] for event in read_events(directory)]


def test_the_custom_job_is_cancelled_and_the_record_brought_up_to_date(
    server: FaultyServer,
) -> None:
    directory = training(server)
    assert cancel(directory) == (
        "run one is cancelled\nCustomJob 1 in us-central1 has ended: CANCELLED"
    )
    assert (directory.outcome() or {})["state"] == "cancelled"
    [attempt] = read_attempts(directory)
    assert attempt["state"] == "CANCELLED" and attempt["ended"] > attempt["submitted"]
    assert events(directory) == ["finished", "attempt_ended"]
    server.requests.clear()
    assert cancel(directory) == "run one had ended before: cancelled"
    assert server.requests == []


def test_from_another_machine_by_the_run_directory(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = training(server)
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "another"))
    assert "has ended: CANCELLED" in cancel(home.find(directory.url))


def test_a_job_whose_name_was_never_noted_is_found_by_its_labels(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint, job=None, state="SUBMITTING")
    add(server, custom_job("other", 1))
    add(server, custom_job("one", 2))
    cancel(directory)
    assert [job["state"] for job in server.jobs.values()] == [
        "JOB_STATE_RUNNING",
        "JOB_STATE_CANCELLED",
    ]
    assert read_attempts(directory)[0]["job"] == f"{PARENT}/2"


def test_a_job_that_was_never_created(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint, job=None, state="SUBMITTING")
    assert cancel(directory) == "run one is cancelled"
    [attempt] = read_attempts(directory)
    assert (attempt["state"], attempt["job"]) == ("CANCELLED", None)


def test_a_job_that_has_ended_meanwhile_is_left_as_it_is(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint)
    add(server, custom_job("one", state="EXPIRED"))
    assert "CustomJob 1 in us-central1 had ended: EXPIRED" in cancel(directory)
    assert not any(":cancel" in request for request in server.requests)
    assert read_attempts(directory)[0]["state"] == "EXPIRED"


def test_a_job_that_outlives_its_run_is_cancelled_though_the_run_had_ended(
    server: FaultyServer,
) -> None:
    directory = record_run("one")
    directory.end("succeeded", "training is complete")
    record_attempt(directory, server.endpoint)
    add(server, custom_job("one"))
    assert cancel(directory) == (
        "run one had ended before: succeeded\nCustomJob 1 in us-central1 has ended: CANCELLED"
    )
    assert (directory.outcome() or {})["state"] == "succeeded"


def test_attempts_that_are_over_are_not_asked_about(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint, 1, state="FAILED")
    record_attempt(directory, server.endpoint, 2)
    add(server, custom_job("one", 2, attempt=2))
    cancel(directory)
    assert not any(request.endswith("/1") for request in server.requests)


def test_a_refusal_says_what_is_still_running_and_the_next_try_finishes(
    server: FaultyServer,
) -> None:
    directory = training(server)
    server.faults = [refuses(403, "PERMISSION_DENIED", "No.")]
    with pytest.raises(ApiError) as raised:
        cancel(directory)
    said = str(raised.value)
    assert said.startswith("run one is cancelled, but its CustomJob may still run: ")
    assert "roles/aiplatform.user" in said and said.endswith("(then again: swell cancel one)")
    assert raised.value.kind == "permission"
    server.faults = [None, resets_after]
    assert "CustomJob 1 in us-central1 has ended: CANCELLED" in cancel(directory)


def test_a_local_run_is_its_launchs_to_stop() -> None:
    directory = record_run("one", target="local")
    record_attempt(directory, "http://127.0.0.1:1")
    assert cancel(directory) == "run one is cancelled"


def test_several_are_ended_at_once(server: FaultyServer) -> None:
    local = record_run("local", target="local")
    directory = training(server)
    answer = CliRunner().invoke(app, ["cancel", "one", "local", "one"])
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert [line for line in answer.stdout.splitlines() if line.startswith("run")] == [
        "run one is cancelled",
        "run local is cancelled",
    ]
    assert all((one.outcome() or {})["state"] == "cancelled" for one in (local, directory))


def test_of_several_none_is_ended_when_one_is_not_found(server: FaultyServer) -> None:
    directory = record_run("one")
    answer = CliRunner().invoke(app, ["cancel", "one", "two"])
    assert answer.exit_code == 2
    assert "two: there is no such run" in answer.stderr
    assert directory.outcome() is None


def test_of_several_one_that_fails_holds_up_no_other(server: FaultyServer) -> None:
    broken, directory = record_run("broken"), record_run("one")
    broken.store.write("attempts/0001.json", b"no JSON")
    answer = CliRunner().invoke(app, ["cancel", "broken", "one"])
    assert answer.exit_code == 1
    assert answer.stdout == "run one is cancelled\n"
    assert answer.stderr.startswith("swell: ") and "broken" in answer.stderr
    assert directory.outcome()


def with_controller(directory: RunDirectory, server: FaultyServer, number: int = 1) -> str:
    """Gives a run a controller that runs. Returns its CustomJob's name."""
    job = custom_job("one", 6 + number)
    add(server, job)
    record = ControllerRecord(
        number, "us-central1", server.endpoint, "e2-standard-4", job["name"], state="RUNNING"
    )
    directory.write_json(record_name(number), record.to_json())
    return str(job["name"])


def test_all_of_a_fleet_are_asked_to_end_though_one_cannot_be(server: FaultyServer) -> None:
    directory = record_run("one", fleet=3)
    for number in (1, 2, 3):
        record_attempt(directory, server.endpoint, number)
        add(server, custom_job("one", number, attempt=number))
    with_controller(directory, server)
    server.faults = [refuses(403, "PERMISSION_DENIED", "No.")]
    with pytest.raises(ApiError, match="its CustomJob may still run"):
        cancel(directory)
    states = [job["state"] for job in server.jobs.values()]
    assert states == ["JOB_STATE_RUNNING", *["JOB_STATE_CANCELLED"] * 3]
    assert [it["state"] for it in read_attempts(directory)] == ["PENDING", *["CANCELLED"] * 2]
    assert [it.state for it in read_controllers(directory)] == ["CANCELLED"]


def test_all_controllers_are_asked_to_end_before_one_is_waited_for(server: FaultyServer) -> None:
    """An old one and the one that is to relieve it: each costs money while the other ends."""
    directory = record_run("one")
    names = [with_controller(directory, server, number) for number in (1, 2)]

    def obeys_late(handler: Handler) -> None:
        """Takes the request; the CustomJob ends when both have been asked to."""
        if sum(":cancel" in request for request in server.requests) == 2:
            for name in names:
                server.jobs[name]["state"] = "JOB_STATE_CANCELLED"
        handler.answer(200, {})

    server.faults = [None, obeys_late, None, obeys_late]  # each is looked at first
    assert cancel(directory).splitlines()[1:] == [
        "controller 1 is asked to end",
        "controller 2 is asked to end",
    ]
    requests = [request.rpartition("/")[2] for request in server.requests]
    assert requests == ["7", "7:cancel", "8", "8:cancel", "7", "8"]
    assert [it.state for it in read_controllers(directory)] == ["CANCELLED", "CANCELLED"]


def test_what_others_have_seen_of_an_end_is_neither_said_twice_nor_overwritten(
    server: FaultyServer,
) -> None:
    """A launch elsewhere, or a controller, sees the outcome, too, and cancels the job as well."""
    directory = training(server)
    known: dict[str, Any] = {"state": "CANCELLED", "ended": 1e9 + 60, "step": 7}

    def somebody_sees_it(handler: Handler) -> None:
        record_attempt(directory, server.endpoint, **known)
        handler.answer(*handler.act())

    server.faults = [None, None, somebody_sees_it]  # a look, the request, the next look
    assert "CustomJob 1 in us-central1 has ended: CANCELLED" in cancel(directory)
    [attempt] = read_attempts(directory)
    assert {name: attempt[name] for name in known} == known
    assert events(directory) == ["finished"]


def test_a_job_that_somebody_has_deleted_is_over(server: FaultyServer) -> None:
    directory = record_run("one")
    record_attempt(directory, server.endpoint)
    assert "CustomJob 1 in us-central1 had ended" in cancel(directory)
    assert [it["verdict"] for it in read_events(directory) if "verdict" in it] == ["cancelled"]
    [attempt] = read_attempts(directory)
    assert attempt["state"] == "CANCELLED" and "somebody has deleted it" in attempt["reason"]


def test_a_controller_that_does_not_end_by_itself_is_cancelled_at_last(
    server: FaultyServer,
) -> None:
    directory = training(server)
    name = with_controller(directory, server)
    assert cancel(directory).endswith("controller 1 is asked to end")
    assert server.jobs[name]["state"] == "JOB_STATE_CANCELLED"
    [record] = read_controllers(directory)
    assert record.state == "CANCELLED" and record.ended is not None, "it costs nothing any more"


def test_of_a_local_run_whose_launch_was_killed_everything_is_over_and_on_record() -> None:
    directory = record_run("one", target="local", by=home.whoami())
    record_attempt(directory, "http://127.0.0.1:1", state="RUNNING")
    directory.write_json(record_name(1), ControllerRecord(1, state="RUNNING").to_json())
    assert cancel(directory) == "run one is cancelled"
    [attempt], [controller] = read_attempts(directory), read_controllers(directory)
    assert (attempt["state"], controller.state) == ("CANCELLED", "CANCELLED")
    assert attempt["reason"] == "its VMs were stopped: the run has ended"
    assert attempt["ended"] and controller.ended
    assert events(directory) == ["finished", "attempt_ended", "controller_ended"]


def test_a_controller_that_lives_may_tell_the_webhook_first(server: FaultyServer) -> None:
    directory = record_run("one")
    name = with_controller(directory, server)
    attendant = Attendant("me@vm", 1, since=time.time(), seen=time.time(), every=20.0)
    directory.write_json(attendant_name(1), attendant.to_json())

    def leave(seconds: float) -> None:
        directory.write_json(attendant_name(1), replace(attendant, left=True).to_json())
        server.jobs[name]["state"] = "JOB_STATE_SUCCEEDED"

    assert cancel_run(directory, retries=QUICK, sleep=leave) == "run one is cancelled"
    assert server.jobs[name]["state"] == "JOB_STATE_SUCCEEDED"
