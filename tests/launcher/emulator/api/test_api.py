"""The HTTP API as curl and programs of one's own see it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.launcher.emulator.running import PARENT, Emulator, pool

LOGS = "/v2/entries:list"
LOCATION = "/v1/projects/local/locations/local"


def test_curl_users_get_enum_names_and_googles_client_gets_numbers(emulator: Emulator) -> None:
    job = emulator.create(pool("true"), scheduling={"strategy": "SPOT"})
    ended = emulator.until(job, "SUCCEEDED")
    assert ended["jobSpec"]["scheduling"] == {"strategy": "SPOT"}
    numbers = emulator.http.get(job, params={"$alt": "json;enum-encoding=int"}).json()
    assert numbers["state"] == 4
    assert numbers["jobSpec"]["scheduling"] == {"strategy": 4}
    assert numbers["jobSpec"]["workerPoolSpecs"][0]["replicaCount"] == "1"


def test_jobs_are_listed_newest_first_by_pages_and_filters(emulator: Emulator) -> None:
    jobs = [emulator.create(pool("true")) for _ in range(3)]
    jobs.append(emulator.create(pool("exit 1")))
    for job in jobs:
        emulator.until(job, "SUCCEEDED", "FAILED")
    names = [job.removeprefix("/v1/") for job in reversed(jobs)]

    def ask(**parameters: Any) -> tuple[list[str], str | None]:
        answer = emulator.http.get(PARENT, params=parameters).json()
        return [job["name"] for job in answer["customJobs"]], answer.get("nextPageToken")

    assert ask() == (names, None)
    page, token = ask(pageSize=3)
    assert page == names[:3] and token
    emulator.create(pool("true"))  # what comes meanwhile does not shift the pages
    assert ask(pageSize=3, pageToken=token) == (names[3:], None)
    assert ask(filter='state="JOB_STATE_FAILED"') == (names[:1], None)
    assert ask(filter='state="JOB_STATE_FAILED" AND display_name="another"') == ([], None)
    assert ask(filter="labels.team:*") == ([], None)
    assert ask(filter='state="JOB_STATE_FAILED" OR NOT display_name:"a *"') == (names[:1], None)
    assert emulator.http.get(PARENT.replace("local", "elsewhere")).json() == {"customJobs": []}


@pytest.mark.parametrize("name", ["../../jobs/1", "$(reboot)", "\x1b[2J\u202e\0", "é" * 128])
def test_a_job_may_have_any_name_and_is_itself_alone(emulator: Emulator, name: str) -> None:
    job = emulator.create(pool("true"))
    named = emulator.http.post(PARENT, json={**emulator.get(job), "displayName": name}).json()
    assert named["displayName"] == name
    emulator.until(f"/v1/{named['name']}", "SUCCEEDED")
    listed = emulator.http.get(PARENT).json()["customJobs"]
    assert [one["displayName"] for one in listed] == [name, "a job"]


HALF = '"\\ud800"'  # of a character: JSON can say it, and UTF-8 cannot


@pytest.mark.parametrize(
    "field",
    [
        f'"displayName": {HALF}',
        f'"labels": {{"team": {HALF}}}',
        f'"labels": {{{HALF}: "x"}}',
        f'"jobSpec": {{"workerPoolSpecs": [{{"containerSpec": {{"args": [{HALF}]}}}}]}}',
    ],
)
def test_what_no_answer_could_say_is_refused(emulator: Emulator, field: str) -> None:
    """Else the list of all jobs could never be answered again."""
    answer = emulator.http.post(PARENT, content=f"{{{field}}}")
    assert answer.status_code == 400
    assert "surrogates not allowed" in answer.json()["error"]["message"]
    assert emulator.http.get(PARENT).status_code == 200


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({"filter": 'colour="red"'}, "filter: unknown field colour"),
        ({"filter": "state"}, "filter is not understood from 'state'"),
        ({"filter": 'state="A" OR'}, "filter is not understood from '' on"),
        ({"filter": "create_time>yesterday"}, "filter: create_time needs a timestamp"),
        ({"pageSize": "few"}, "pageSize must be a number"),
        ({"pageToken": "next"}, "pageToken 'next' was not made by this service"),
    ],
)
def test_a_list_request_that_is_wrong(
    emulator: Emulator, parameters: dict[str, str], says: str
) -> None:
    answer = emulator.http.get(PARENT, params=parameters)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(says)


@pytest.mark.parametrize(
    "method, path, body, code, status",
    [
        ("POST", PARENT, b"{not json", 400, "INVALID_ARGUMENT"),
        ("POST", PARENT, b"[1]", 400, "INVALID_ARGUMENT"),
        ("POST", PARENT, b"[" * 100_000, 400, "INVALID_ARGUMENT"),
        ("POST", PARENT, b"\xff\xfe", 400, "INVALID_ARGUMENT"),
        ("POST", PARENT, b" " * (9 * 2**20), 413, "INVALID_ARGUMENT"),
        ("GET", f"{PARENT}/12345", b"", 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/x", b"", 400, "INVALID_ARGUMENT"),
        ("DELETE", f"{PARENT}/12345", b"", 404, "NOT_FOUND"),
        ("POST", f"{PARENT}/12345:cancel", b"{}", 404, "NOT_FOUND"),
        ("GET", f"/emulator{PARENT}/12345/replicas", b"", 404, "NOT_FOUND"),
        ("GET", f"{LOCATION}/nonsense", b"", 404, "NOT_FOUND"),
        ("GET", f"{LOCATION}/endpoints", b"", 501, "UNIMPLEMENTED"),
        ("POST", f"{LOCATION}/trainingPipelines", b"{}", 501, "UNIMPLEMENTED"),
        ("POST", f"{LOCATION}/hyperparameterTuningJobs/1:cancel", b"{}", 501, "UNIMPLEMENTED"),
        ("PATCH", PARENT, b"{}", 404, "NOT_FOUND"),
    ],
)
def test_errors_have_googles_form(
    emulator: Emulator, method: str, path: str, body: bytes, code: int, status: str
) -> None:
    answer = emulator.http.request(method, path, content=body)
    assert answer.status_code == code
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (code, status)
    assert error["message"]


def test_what_vertex_ai_alone_serves_is_refused_with_what_to_do(emulator: Emulator) -> None:
    answer = emulator.http.post(f"{LOCATION}/trainingPipelines", json={})
    assert answer.json()["error"]["message"] == (
        "The emulator does not serve trainingPipelines, as Vertex AI does: "
        "create the CustomJob that the pipeline would start."
    )
    one = pool("true")
    body = {
        "displayName": "a job",
        "jobSpec": {"workerPoolSpecs": [one], "persistentResourceId": "mine"},
    }
    answer = emulator.http.post(PARENT, json=body)
    assert answer.status_code == 501
    assert "leave persistentResourceId out" in answer.json()["error"]["message"]


def test_a_list_has_the_fields_that_it_is_asked_for(emulator: Emulator) -> None:
    job = emulator.create(pool("true"), scheduling={"strategy": "SPOT"})
    emulator.until(job, "SUCCEEDED")
    name = job.removeprefix("/v1/")
    for mask, expected in {
        "name": {"name": name},
        "name,display_name": {"name": name, "displayName": "a job"},
        "jobSpec.scheduling": {"jobSpec": {"scheduling": {"strategy": "SPOT"}}},
        "job_spec.scheduling.strategy,state": {
            "jobSpec": {"scheduling": {"strategy": "SPOT"}},
            "state": "JOB_STATE_SUCCEEDED",
        },
        "endTime,error": {"endTime": emulator.get(job)["endTime"]},
    }.items():
        (listed,) = emulator.http.get(PARENT, params={"readMask": mask}).json()["customJobs"]
        assert listed == expected, mask
    for mask in ("*", "", "name,*"):
        (listed,) = emulator.http.get(PARENT, params={"readMask": mask}).json()["customJobs"]
        assert listed == emulator.get(job), mask
    for mask in ("colour", "jobSpec.colour", "name.first", "jobSpec.workerPoolSpecs.machineSpec"):
        answer = emulator.http.get(PARENT, params={"readMask": mask})
        assert answer.status_code == 400 and mask in answer.json()["error"]["message"]


def test_the_beta_of_the_api_has_the_same_jobs(emulator: Emulator) -> None:
    body = {"displayName": "beta", "jobSpec": {"workerPoolSpecs": [pool("exec sleep 1000")]}}
    beta = PARENT.replace("/v1/", "/v1beta1/")
    made = emulator.http.post(beta, json=body).json()["name"]
    assert emulator.http.get(f"/v1beta1/{made}").json()["name"] == made
    assert [one["name"] for one in emulator.http.get(beta).json()["customJobs"]] == [made]
    assert emulator.http.post(f"/v1beta1/{made}:cancel", json={}).json() == {}
    emulator.until(f"/v1/{made}", "CANCELLED")
    done = emulator.http.delete(f"/v1beta1/{made}").json()
    assert done["metadata"]["@type"].endswith("aiplatform.v1beta1.DeleteOperationMetadata")
    assert emulator.http.get(f"/v1beta1/{done['name']}").json() == done


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://example.com"}, {"Host": "rebound.example.com:80"}]
)
def test_web_pages_are_kept_out(emulator: Emulator, headers: dict[str, str]) -> None:
    answer = emulator.http.get(PARENT, headers=headers)
    assert answer.json()["error"]["status"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("method, path", [("GET", PARENT), ("POST", PARENT), ("POST", LOGS)])
@pytest.mark.parametrize("authorization", ["", "Bearer wrong"])
def test_nobody_gets_in_without_the_token(
    emulator: Emulator, method: str, path: str, authorization: str
) -> None:
    headers = {"Authorization": authorization}
    answer = emulator.http.request(method, path, headers=headers, json={})
    assert answer.status_code == 401
    assert answer.json()["error"]["status"] == "UNAUTHENTICATED"
    assert "Authorization: Bearer TOKEN" in answer.json()["error"]["message"]


def test_logs_are_listed_in_order_by_pages_and_filters(emulator: Emulator) -> None:
    job = emulator.create(pool("for i in 1 2 3 4 5; do echo $i; done; echo oh >&2; sleep 0.1"))
    emulator.until(job, "SUCCEEDED")
    other = emulator.create(pool("echo other"))
    emulator.until(other, "SUCCEEDED")
    mine = f'resource.type="ml_job" AND resource.labels.job_id="{job.rpartition("/")[2]}"'

    def ask(**body: Any) -> tuple[list[dict[str, Any]], str]:
        answer = emulator.http.post("/v2/entries:list", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["entries"], answer.json().get("nextPageToken", "")

    everything, token = ask(filter=mine, resourceNames=["projects/local"])
    assert not token
    assert sorted(texts(everything)) == ["1", "2", "3", "4", "5", "oh"]
    assert texts(ask(filter=f"{mine} AND severity>=ERROR")[0]) == ["oh"]
    assert len({entry["insertId"] for entry in everything}) == 6
    times = [entry["timestamp"] for entry in everything]
    assert times == sorted(set(times))
    assert everything[0]["resource"]["labels"]["task_name"] == "workerpool0-0"

    paged, token = ask(filter=mine, pageSize=4)
    rest, end = ask(filter=mine, pageSize=4, pageToken=token)
    assert (paged + rest, end) == (everything, "")
    assert ask(filter=mine, orderBy="timestamp desc")[0] == everything[::-1]
    assert ask(filter=f'{mine} AND timestamp>"{times[3]}"')[0] == everything[4:]
    assert texts(ask(filter='resource.labels.task_name="workerpool0-0"')[0])[-1] == "other"
    assert ask(filter='resource.labels.task_name="workerpool1-0"')[0] == []


def texts(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["jsonPayload"]["message"] for entry in entries]


@pytest.mark.parametrize(
    "body, says",
    [
        ({"orderBy": "severity"}, "orderBy must be"),
        ({"filter": "textPayload:x"}, "filter: textPayload is not emulated"),
        ({"filter": "severity>=LOUD"}, "filter: severity must be one of"),
        ({"filter": 7}, "filter must be a string"),
        ({"pageSize": -1}, "pageSize must be"),
        ({"pageToken": "x"}, "pageToken was not made"),
        ({"pagesize": 1}, 'Unknown name "pagesize"'),
    ],
)
def test_a_log_request_that_is_wrong(emulator: Emulator, body: dict[str, Any], says: str) -> None:
    answer = emulator.http.post("/v2/entries:list", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(says)
