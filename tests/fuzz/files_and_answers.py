"""Files of the user, Google's answers, and what the emulator is sent."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from starlette.requests import Request

from launcher.api.apierror import Service, read_answer, refusal
from launcher.emulator.api import entries
from launcher.emulator.api.filters import parse_filter
from launcher.emulator.market.traces import TraceError, read_trace
from launcher.emulator.resources import customjobs, readmask
from launcher.emulator.resources.errors import ApiError
from launcher.emulator.storage import globs, masks, multipart, wire, xml_requests
from launcher.emulator.storage.blobs import Content
from launcher.emulator.storage.errors import Refused
from launcher.emulator.storage.resource import ANY
from launcher.job.jobfile import JobFileError, load_market
from launcher.job.prices import read_prices
from launcher.logs.cloudlog import read_entry
from launcher.logs.reader import local_line
from launcher.target import load_job
from tests.fuzz.inputs import anything, as_json, changed, damaged, json_of
from tests.fuzz.target import LOOP, target

JOB = {
    "name": "digits",
    "task": "a:B",
    "args": {"x": 1},
    "pools": [
        {"machine": "a2-highgpu-1g", "replicas": 1},
        {"machine": "a2-highgpu-1g", "replicas": 2},
    ],
    "elastic": {"hold_off": "1s"},
    "env": {"A": "b"},
    "local": {"market": [{"at": "5 steps", "vanish": "workerpool1-0"}]},
}
MARKET = {
    "seed": 1,
    "speed": 10,
    "notice": "5s",
    "incidents": [{"at": "5 steps", "preempt": "workerpool1-0", "notice": "5s"}],
}
YAML = b"""name: x
task: a:B
pools: &p
- machine: a2-highgpu-1g
  env: {A: '${HOME}'}
labels: {a: b}
"""
# Each line ten times the one before: "billion laughs".
ALIASES = b"a0: &a0 x\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 10)
)


class _File:
    """A file whose content changes with every input, and that goes with this process."""

    def __init__(self) -> None:
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="swell-fuzz-")

    def of(self, data: bytes) -> str:
        path = Path(self._folder.name) / "input.yaml"
        path.write_bytes(data)
        return str(path)


FILE = _File()


@target(json_of(JOB) | damaged(YAML, ALIASES))
def job_files(data: bytes) -> None:
    try:
        load_job(FILE.of(data), variables={"HOME": "/"}).settings()
    except JobFileError:
        return


@target(json_of(MARKET, MARKET["incidents"]))
def market_files(data: bytes) -> None:
    try:
        load_market(FILE.of(data))
    except JobFileError:
        return


@target(
    damaged(b"2021-12-11, 11:11:30, 55\n2021-12-11, 11:12:30, 5\n")
    | json_of([60000, "add", {"nodes": ["a"]}])
)
def traces(data: bytes) -> None:
    try:
        read_trace(Path(FILE.of(data)))
    except TraceError:
        return


@target(json_of({"a2-highgpu-1g": {"spot": 1.5, "on_demand": 3}}))
def price_files(data: bytes) -> None:
    try:
        read_prices(FILE.of(data))
    except (JobFileError, ValueError):
        return


ERROR = {
    "error": {
        "code": 403,
        "message": "no",
        "status": "PERMISSION_DENIED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "X",
                "metadata": {"a": "b"},
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3s"},
        ],
    }
}
SERVICE = Service("Vertex AI", "aiplatform.googleapis.com", "roles/x", "p", "https://x", "r")


@target(
    st.tuples(
        st.sampled_from([400, 401, 403, 404, 429, 500, 503]),
        json_of(ERROR, [ERROR]),
        st.sampled_from(["", "5", "nan", "1e999", "Fri, 99 Dec", "9" * 5000]),
    )
)
def errors_of_google(given: tuple[int, bytes, str]) -> None:
    code, data, after = given
    text = data.decode("utf-8", "replace")
    error = refusal(read_answer(code, text, {"Retry-After": after}), SERVICE, "projects/p")
    assert "\n" not in str(error)
    assert error.retry_after is None or isinstance(error.retry_after, float | timedelta)


ENTRY = {
    "timestamp": "2026-01-01T00:00:00.5Z",
    "severity": "INFO",
    "resource": {"labels": {"task_name": "a"}},
    "jsonPayload": {"message": "x"},
    "insertId": "1",
}


@target(changed(ENTRY) | anything)
def log_entries(entry: Any) -> None:
    read_entry(entry)
    try:
        data = as_json(entry)
    except ValueError:
        return
    local_line(data, "workerpool0-0")


POOL = {
    "machineSpec": {"machineType": "a2-highgpu-1g", "acceleratorType": 8, "acceleratorCount": 1},
    "replicaCount": "1",
    "containerSpec": {
        "imageUri": "x",
        "command": ["a"],
        "env": [{"name": "SWELL_TOKEN", "value": "b"}],
    },
}
CUSTOM_JOB = {
    "displayName": "x",
    "labels": {"a": "b"},
    "jobSpec": {
        "workerPoolSpecs": [POOL, {}],
        "scheduling": {"timeout": "3600s", "strategy": 4},
        "baseOutputDirectory": {"outputUriPrefix": "gs://b/x"},
    },
}


@target(changed(CUSTOM_JOB) | anything)
def bodies_of_custom_jobs(body: Any) -> None:
    try:
        job = customjobs.parse(body)
    except ApiError:
        return
    customjobs.pools(job)
    customjobs.scheduling(job)
    customjobs.output_directory(job)
    json.dumps(customjobs.encode(job | {"name": "x"}, True))


@target(
    damaged(
        b'labels.swell-run="a" AND state=("X" OR "Y") NOT create_time>"2026-01-01T00:00:00Z"',
        b"((((",
        b"-a:b",
    )
)
def filters(data: bytes) -> None:
    try:
        parse_filter(data.decode("utf-8", "replace"))
    except ApiError:
        return


@target(
    changed(
        {
            "filter": "a=b",
            "pageSize": 5,
            "pageToken": "",
            "orderBy": "timestamp asc",
            "resourceNames": ["projects/p"],
        }
    )
    | st.dictionaries(st.text(max_size=12), anything, max_size=3)
)
def queries_for_log_entries(body: Any) -> None:
    if not isinstance(body, dict):
        return
    try:
        entries.answer(entries.parse_query(body), Path("/nonexistent"))
    except ApiError:
        return


MULTIPART = (
    b'--x\r\nContent-Type: application/json\r\n\r\n{"name": "a"}\r\n'
    b"--x\r\nContent-Type: a/b\r\n\r\nhello\r\n--x--"
)


@target(damaged(MULTIPART))
def multipart_uploads(data: bytes) -> None:
    try:
        multipart.described(data, b"x")
    except Refused:
        return


@target(json_of({"name": "b", "location": "US"}))
def bodies_of_the_storage(data: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    try:
        LOOP.run_until_complete(wire.read_json(Request({"type": "http", "headers": []}, receive)))
    except Refused:
        return


BATCH = (
    b"--x\r\nContent-Type: application/http\r\nContent-ID: <a+1>\r\n\r\n"
    b"DELETE /storage/v1/b/b/o/a HTTP/1.1\r\nContent-Length: 0\r\n\r\n--x--"
)


@target(damaged(BATCH))
def batches_of_requests(data: bytes) -> None:
    try:
        for part in multipart.parts(data, b"x"):
            multipart.headed(part)
    except Refused:
        return


@target(damaged(b"**/{a,[!b-d]}?\\*", b"[a-z", b"{a,{b,c}}"))
def patterns_of_names(data: bytes) -> None:
    try:
        globs.compiled(data.decode("utf-8", "replace")).fullmatch("a/b.txt")
    except Refused:
        return


@target(damaged(b"items(name,metadata/x),nextPageToken", b"items/*/name", b"*"))
def partial_answers(data: bytes) -> None:
    answer = {"kind": "storage#objects", "items": [{"name": "a", "metadata": {"x": "1"}}]}
    try:
        masks.selected(answer, data.decode("utf-8", "replace"))
    except Refused:
        return


PARTS = (
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part>"
    b"</CompleteMultipartUpload>"
)


@target(damaged(PARTS))
def lists_of_parts(data: bytes) -> None:
    part = Content("blob", 1, "", "x")
    try:
        xml_requests._chosen(data, xml_requests.Upload("b", "a", {}, ANY, {1: part}))
    except Refused:
        return


@target(damaged(b"WyJhIiwgMV0=", b"", b"W10="))
def page_tokens(data: bytes) -> None:
    try:
        wire.listing({"pageToken": data.decode("utf-8", "replace")})
    except Refused:
        return


@target(damaged(b"name,jobSpec.scheduling", b"*,a"))
def read_masks(data: bytes) -> None:
    try:
        readmask.masked({"name": "a"}, readmask.parse(data.decode("utf-8", "replace")))
    except ApiError:
        return
