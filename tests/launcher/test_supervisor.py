"""The policy as a table, and the loop against an API that is a list of answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.apierror import ApiError
from launcher.job.customjob import CustomJob
from launcher.supervisor import (
    GRACE,
    LOST,
    REFUSED,
    SUBMITTING,
    Action,
    Attempt,
    Cancel,
    Done,
    End,
    Submit,
    Supervisor,
    Watch,
    decide,
    read_attempts,
)
from launcher.vertex import JobState
from trainer.events import read_events
from trainer.rundir import RunDirectory

NAME = "projects/p/locations/l/customJobs/7"


def attempt(state: str, reason: str = "") -> Attempt:
    return Attempt(1, "l", "http://x", NAME, state, reason)


@pytest.mark.parametrize(
    ("last", "outcome", "cancel_sent", "since", "action"),
    [
        (None, None, False, 0.0, Submit(1)),
        (attempt(SUBMITTING), None, False, 0.0, Watch()),
        (attempt("PENDING"), None, False, 0.0, Watch()),
        (attempt("RUNNING"), None, False, 0.0, Watch()),
        (attempt("SUCCEEDED"), None, False, 0.0, End("succeeded", "the CustomJob succeeded")),
        (attempt("FAILED", "out of memory"), None, False, 0.0, End("failed", "out of memory")),
        (attempt("EXPIRED"), None, False, 0.0, End("failed", "the CustomJob ended EXPIRED")),
        (attempt("CANCELLED"), None, False, 0.0, End("cancelled", "the CustomJob was cancelled")),
        (attempt("RUNNING"), "cancelled", False, 0.0, Cancel()),
        (attempt("RUNNING"), "cancelled", True, 0.0, Watch()),
        (attempt("RUNNING"), "succeeded", False, 0.0, Watch()),
        (attempt("RUNNING"), "failed", False, GRACE, Cancel()),
        (attempt("RUNNING"), "failed", True, GRACE, Watch()),
        (attempt("FAILED"), "failed", False, 0.0, Done()),
        (None, "cancelled", False, 0.0, Done()),
    ],
)
def test_the_policy(
    last: Attempt | None, outcome: str | None, cancel_sent: bool, since: float, action: Action
) -> None:
    found = {"state": outcome} if outcome else None
    assert decide(last, found, cancel_sent=cancel_sent, since_outcome=since) == action


class Api:
    """Answers with what it was given; the last answer is repeated."""

    region = "l"
    endpoint = "http://x"

    def __init__(self, *answers: str | ApiError | Callable[[], str]) -> None:
        self.answers = list(answers)
        self.submitted: list[CustomJob] = []
        self.cancelled: list[str] = []
        self.refusal: ApiError | None = None

    def submit(self, request: CustomJob) -> JobState:
        if self.refusal:
            raise self.refusal
        self.submitted.append(request)
        return JobState(NAME, "QUEUED")

    def get(self, name: str) -> JobState:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return JobState(name, answer if isinstance(answer, str) else answer())

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)
        self.answers = ["CANCELLED"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def supervise(path: Path, api: Api) -> dict[str, Any]:
    clock = Clock()
    return Supervisor(
        RunDirectory(str(path)),
        api,
        lambda number: {"displayName": str(number)},
        poll=1.0,
        patience=60.0,
        clock=clock,
        sleep=clock.sleep,
    ).run()


def events(path: Path) -> list[str]:
    return [event["event"] for event in read_events(RunDirectory(str(path)))]


def test_a_run_that_the_trainer_ends(tmp_path: Path) -> None:
    def trained() -> str:
        RunDirectory(str(tmp_path)).end("succeeded", "training is complete")
        return "RUNNING"

    api = Api("PENDING", "RUNNING", trained, "SUCCEEDED")
    assert supervise(tmp_path, api)["reason"] == "training is complete"
    [record] = read_attempts(RunDirectory(str(tmp_path)))
    assert (record["state"], record["job"], record["attempt"]) == ("SUCCEEDED", NAME, 1)
    assert record["ended"] > record["submitted"]
    assert events(tmp_path) == ["attempt_started", "attempt_ended"]


def test_a_failed_attempt_ends_the_run(tmp_path: Path) -> None:
    api = Api("RUNNING", "FAILED")
    assert supervise(tmp_path, api)["state"] == "failed"
    assert len(api.submitted) == 1
    assert events(tmp_path) == ["attempt_started", "attempt_ended", "finished"]


def test_an_outcome_of_another_terminal_cancels_the_custom_job(tmp_path: Path) -> None:
    def cancelled() -> str:
        RunDirectory(str(tmp_path)).end("cancelled", "by somebody")
        return "RUNNING"

    api = Api("RUNNING", cancelled, "RUNNING")
    assert supervise(tmp_path, api)["state"] == "cancelled"
    assert api.cancelled == [NAME]


def test_a_vm_that_hangs_after_the_end_does_not_go_on_costing(tmp_path: Path) -> None:
    def failed() -> str:
        RunDirectory(str(tmp_path)).end("failed", "the task raised")
        return "RUNNING"

    api = Api(failed, "RUNNING")
    assert supervise(tmp_path, api)["reason"] == "the task raised"
    assert api.cancelled == [NAME]


def test_a_refused_request_ends_the_run(tmp_path: Path) -> None:
    api = Api()
    api.refusal = ApiError("403 permission denied")
    assert supervise(tmp_path, api)["reason"] == "403 permission denied"
    assert read_attempts(RunDirectory(str(tmp_path)))[0]["state"] == REFUSED


def test_an_api_that_is_silent_for_a_while_is_waited_for(tmp_path: Path) -> None:
    silence = ApiError("no answer", transient=True)
    assert (
        supervise(tmp_path, Api("RUNNING", silence, silence, "SUCCEEDED"))["state"] == "succeeded"
    )


def test_an_api_that_stays_silent_is_given_up(tmp_path: Path) -> None:
    silence = ApiError("no answer", transient=True)
    assert supervise(tmp_path, Api("RUNNING", silence))["reason"] == "no answer"
    assert read_attempts(RunDirectory(str(tmp_path)))[0]["state"] == LOST


def test_a_run_that_has_ended_before_is_not_submitted(tmp_path: Path) -> None:
    RunDirectory(str(tmp_path)).end("cancelled", "at once")
    api = Api()
    assert supervise(tmp_path, api)["reason"] == "at once"
    assert not api.submitted
