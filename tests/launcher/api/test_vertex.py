"""The CustomJob client against a server that misbehaves on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.api.apierror import ApiError
from launcher.api.retry import Retries
from launcher.api.vertex import TERMINAL, Jobs, JobState, console_url, jobs_of, runs_among
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

pytest.importorskip("google.cloud.aiplatform_v1")

PARENT = "projects/p/locations/us-central1/customJobs"
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def retries(self, limit: float = 120.0) -> Retries:
        return Retries(Backoff(limit=limit), lambda: self.now, self.sleep, lambda: 0.0)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def jobs(server: FaultyServer, time: Time) -> Jobs:
    return Jobs("p", "us-central1", server.endpoint, retries=time.retries(), timeout=5.0)


def request(run: str = "one", attempt: int = 1, **labels: str) -> dict[str, Any]:
    return {
        "displayName": run,
        "labels": {"swell-run": run, "swell-attempt": str(attempt), **labels},
        "jobSpec": {"baseOutputDirectory": {"outputUriPrefix": f"gs://b/{run}"}},
    }


TRANSIENT = [
    pytest.param(refuses(429, "RESOURCE_EXHAUSTED"), id="429"),
    pytest.param(refuses(503, "UNAVAILABLE"), id="503"),
    pytest.param(refuses(500, "INTERNAL"), id="500"),
    pytest.param(says(502, b"<html><title>Bad gateway</title>"), id="a proxy's 502"),
    pytest.param(resets_before, id="reset before the commit"),
    pytest.param(resets_after, id="reset after the commit"),
    pytest.param(cut_off, id="cut off after the commit"),
    pytest.param(says(503, b""), id="503 without a word"),
]
UNREADABLE = [
    pytest.param(says(200, b'{"name": '), id="malformed JSON"),
    pytest.param(says(200, b"<html>Please sign in</html>"), id="a page"),
    pytest.param(says(200, b'{"customJobs": 7}'), id="another type"),
]


@pytest.mark.parametrize("fault", [*TRANSIENT, *UNREADABLE])
def test_a_job_is_created_once_whatever_happens(
    server: FaultyServer, jobs: Jobs, fault: Fault
) -> None:
    server.faults = [fault]
    job = jobs.submit(request())
    assert list(server.jobs) == [job.name]
    assert (job.state, job.output, job.labels["swell-run"]) == ("PENDING", "gs://b/one", "one")


@pytest.mark.parametrize("fault", [*TRANSIENT, *UNREADABLE])
def test_nor_is_it_created_twice_when_the_look_up_fails_too(
    server: FaultyServer, jobs: Jobs, fault: Fault
) -> None:
    server.faults = [resets_after, fault, fault, None]
    assert jobs.submit(request()).name == f"{PARENT}/1"
    assert len(server.jobs) == 1
    assert [line.partition(" ")[0] for line in server.requests] == ["POST", "GET", "GET", "GET"]


def test_the_look_up_reads_every_page_and_takes_nobody_elses_job(
    server: FaultyServer, jobs: Jobs
) -> None:
    mine = jobs.submit(request()).name  # the server below ignores the filter
    for run, attempt in (("one", 2), ("other", 1), ("another", 1), ("one-1", 1)):
        jobs.submit(request(run, attempt))
    assert [job.name for job in jobs.find("one", 1)] == [mine]
    assert len(jobs.find("one")) == 2
    server.faults = [resets_before]
    assert jobs.submit(request("third")).name == f"{PARENT}/6"


def test_an_api_that_does_not_take_the_filter_is_asked_without(
    server: FaultyServer, jobs: Jobs
) -> None:
    mine = jobs.submit(request()).name
    jobs.submit(request("other"))
    server.faults = [refuses(400, "INVALID_ARGUMENT", "Invalid filter.")]
    assert [job.name for job in jobs.find("one", 1)] == [mine]
    server.faults = [refuses(400, "INVALID_ARGUMENT")] * 2
    with pytest.raises(ApiError, match="400"):
        jobs.find("one")


@pytest.mark.parametrize("fault", [resets_before, refuses(503, "UNAVAILABLE")])
def test_a_request_without_labels_is_not_sent_twice(
    server: FaultyServer, jobs: Jobs, fault: Fault
) -> None:
    server.faults = [fault]
    with pytest.raises(ApiError) as raised:
        jobs.submit({"displayName": "x", "jobSpec": {}})
    assert not raised.value.transient
    assert len(server.requests) == 1


def test_unless_the_api_says_that_it_did_not_take_it(server: FaultyServer, jobs: Jobs) -> None:
    server.faults = [refuses(429, "RESOURCE_EXHAUSTED")]
    assert jobs.submit({"displayName": "x", "jobSpec": {}}).name in server.jobs


@pytest.mark.parametrize("fault", [*UNREADABLE, pytest.param(says(200, b"{}"), id="nothing")])
def test_an_answer_that_cannot_be_read_is_asked_for_again(
    server: FaultyServer, jobs: Jobs, fault: Fault
) -> None:
    name = jobs.submit(request()).name
    server.faults = [fault]
    assert jobs.get(name).name == name


@pytest.mark.parametrize("fault", TRANSIENT)
def test_reading_cancelling_and_deleting_are_tried_again(
    server: FaultyServer, jobs: Jobs, fault: Fault
) -> None:
    name = jobs.submit(request()).name
    server.faults = [fault]
    assert jobs.get(name).state == "PENDING"
    server.faults = [fault]
    assert [job.name for job in jobs.list()] == [name]
    server.faults = [fault]
    jobs.cancel(name)
    assert jobs.get(name).state == "CANCELLED"
    server.faults = [fault]
    jobs.delete(name)
    assert not server.jobs


def test_a_server_that_hangs_is_left(server: FaultyServer, time: Time) -> None:
    jobs = Jobs("p", "us-central1", server.endpoint, retries=time.retries(limit=3.0), timeout=0.3)
    server.faults = [hangs]
    assert jobs.submit(request()).name == f"{PARENT}/1"
    server.faults = [hangs] * 50
    with pytest.raises(ApiError, match="does not answer in time") as raised:
        jobs.get(f"{PARENT}/1")
    assert raised.value.transient


def test_the_pauses_grow_and_end(server: FaultyServer, jobs: Jobs, time: Time) -> None:
    server.faults = [refuses(503, "UNAVAILABLE", "Overloaded.")] * 100
    with pytest.raises(ApiError, match=r"127.0.0.1:\d+: 503 Overloaded") as raised:
        jobs.get(f"{PARENT}/1")
    assert raised.value.transient and raised.value.code == 503
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0, 16.0, 16.0, 16.0]


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        (refuses(429, "RESOURCE_EXHAUSTED", Retry_After="9"), 9.0),
        (refuses(503, "UNAVAILABLE", "", RETRY_INFO), 7.5),
        (refuses(503, "UNAVAILABLE", "", RETRY_INFO, Retry_After="9"), 9.0),
        (refuses(503, "UNAVAILABLE", Retry_After="soon"), 0.5),
    ],
)
def test_an_api_that_asks_for_a_pause_gets_it(
    server: FaultyServer, jobs: Jobs, time: Time, fault: Fault, pause: float
) -> None:
    server.faults = [fault]
    assert jobs.list() == []
    assert time.slept == [pause]


def test_one_that_asks_for_hours_is_not_waited_for(
    server: FaultyServer, jobs: Jobs, time: Time
) -> None:
    server.faults = [refuses(429, "RESOURCE_EXHAUSTED", Retry_After="7200")]
    with pytest.raises(ApiError) as raised:
        jobs.list()
    assert time.slept == []
    assert raised.value.retry_after == 7200


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 501])
def test_what_is_not_transient_is_asked_once(server: FaultyServer, jobs: Jobs, code: int) -> None:
    server.faults = [refuses(code, "NO", "No.")]
    with pytest.raises(ApiError) as raised:
        jobs.submit(request())
    assert (raised.value.code, raised.value.transient) == (code, False)
    assert len(server.requests) == 1
    assert "\n" not in str(raised.value)


def test_list_stops_at_the_limit_without_reading_further_pages(
    server: FaultyServer, jobs: Jobs
) -> None:
    for attempt in range(1, 6):
        jobs.submit(request(attempt=attempt))
    server.requests.clear()
    assert [job.name for job in jobs.list(limit=2)] == [f"{PARENT}/5", f"{PARENT}/4"]
    assert len(server.requests) == 1
    assert len(jobs.list()) == 5


def test_cancelling_what_has_ended_is_fine_and_what_is_not_there_is_not(
    server: FaultyServer, jobs: Jobs
) -> None:
    name = jobs.submit(request()).name
    jobs.cancel(name)
    jobs.cancel(name)
    with pytest.raises(ApiError, match="gcloud ai custom-jobs list") as raised:
        jobs.cancel(f"{PARENT}/99")
    assert raised.value.kind == "not_found"
    with pytest.raises(ApiError, match="does not exist"):
        jobs.delete(f"{PARENT}/99")


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_every_terminal_state_ends_a_wait(
    server: FaultyServer, jobs: Jobs, time: Time, state: str
) -> None:
    name = jobs.submit(request()).name

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if time.now >= 3:
            server.jobs[name]["state"] = f"JOB_STATE_{state}"

    ended = jobs.wait(name, poll=1.0, limit=100.0, clock=lambda: time.now, sleep=sleep)
    assert (ended.state, time.now) == (state, 3.0)


def test_a_wait_has_a_limit(server: FaultyServer, jobs: Jobs, time: Time) -> None:
    name = jobs.submit(request()).name
    job = jobs.wait(name, poll=1.0, limit=5.0, clock=lambda: time.now, sleep=time.sleep)
    assert (job.ended, time.now) == (False, 5.0)


@pytest.mark.filterwarnings("ignore:Unrecognized JobState")
def test_states_that_are_not_known_yet_are_shown_as_they_are(
    server: FaultyServer, jobs: Jobs
) -> None:
    name = jobs.submit(request()).name
    server.jobs[name]["state"] = 99
    assert jobs.get(name).state == "99"


def test_an_endpoint_where_nobody_listens(time: Time) -> None:
    with FaultyServer() as gone:
        endpoint = gone.endpoint
    jobs = Jobs("p", "l", endpoint, retries=time.retries(limit=3.0))
    with pytest.raises(ApiError, match="does not answer") as raised:
        jobs.submit(request())
    assert raised.value.transient and len(time.slept) == 2


def test_the_endpoint_can_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Jobs("p", "us-east1").endpoint == "https://us-east1-aiplatform.googleapis.com"
    monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", "http://127.0.0.1:1/")
    assert Jobs("p", "us-east1").endpoint == "http://127.0.0.1:1"


def test_the_api_of_an_attempt() -> None:
    attempt = {"job": None, "region": "r", "endpoint": "https://r-aiplatform.googleapis.com"}
    assert jobs_of(attempt, "p").parent == "projects/p/locations/r"
    named = {**attempt, "job": "projects/77/locations/r/customJobs/5"}
    assert jobs_of(named, "p").parent == "projects/77/locations/r"
    assert console_url(named["job"] or "").endswith("/locations/r/training/5?project=77")


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("us-east1", "https://evil.example"),
        ("us-east1", "http://127.0.0.1:1"),
        ("us-east1", "https://us-east1-aiplatform.googleapis.com.evil.example"),
        ("us-east1", "https://us-east1-aiplatform.googleapis.com@evil.example"),
        ("us-east1", "https://us-west1-aiplatform.googleapis.com"),
        ("evil.example/x", "https://evil.example/x-aiplatform.googleapis.com"),
        ("", "https://-aiplatform.googleapis.com"),
        ("us-east1", ""),
    ],
)
def test_no_request_goes_where_only_a_run_directory_says(
    region: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = {"attempt": 1, "job": None, "region": region, "endpoint": endpoint}
    with pytest.raises(ApiError, match="which is not asked on its word") as raised:
        jobs_of(attempt, "p")
    assert raised.value.id == "SW3021"
    monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", "http://127.0.0.1:1/")
    if endpoint == "http://127.0.0.1:1":
        assert jobs_of(attempt, "p").endpoint == endpoint, "the user's own word"
    else:
        with pytest.raises(ApiError):
            jobs_of(attempt, "p")


def test_a_run_is_as_its_newest_job() -> None:
    labels = {"swell-run": "a"}
    old = JobState("1", "FAILED", labels=labels, created=1.0)
    new = JobState("2", "RUNNING", labels=labels, created=2.0)
    assert runs_among([new, old, JobState("3", "RUNNING")]) == {"a": new}


def test_without_credentials_the_command_that_gets_them_is_named(tmp_path: Any) -> None:
    # In a process of its own: google.auth looks at the environment in many places.
    program = """if True:
        import os, sys
        from launcher.api.apierror import ApiError
        from launcher.api.vertex import Jobs
        for key in ("", *sys.argv[1:]):
            if key:
                os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = key
            try:
                Jobs("p", "us-central1").list()
            except ApiError as error:
                print(error.kind, error)
    """
    broken = tmp_path / "key.json"
    broken.write_text(json.dumps({"type": "service_account"}))
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "none.json"), str(broken)],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "HOME": str(tmp_path),
            "NO_GCE_CHECK": "true",
            "CLOUDSDK_CONFIG": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(said) == 3, "one line each"
    assert all("gcloud auth application-default login" in line for line in said)
    assert said[0].startswith("credentials there are no Google Cloud credentials on this machine")
    assert "none.json" in said[1]
    assert "key.json" in said[2]
