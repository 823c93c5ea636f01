"""What a probe tells of where it is: forms and names, and no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.probe.surroundings import VALUES, environment_names, host, metadata, spec_shape

SPEC: dict[str, Any] = {
    "cluster": {"workerpool0": ["cmle-training-workerpool0-ab-0:2222"]},
    "environment": "cloud",
    "task": {"type": "workerpool0", "index": 0},
    "job": json.dumps({"job_args": ["--password=hunter2"]}),
    "open_ports": [3333],
}


def test_of_a_cluster_spec_the_form_is_told_and_nothing_of_the_job() -> None:
    shape = spec_shape(json.dumps(SPEC))
    assert shape == {
        "given": True,
        "replica": "workerpool0-0",
        "error": "",
        "keys": ["cluster", "environment", "job", "open_ports", "task"],
        "pools": SPEC["cluster"],
        "task": ["index", "type"],
        "job": "text",
        "open_ports": [3333],
        "environment": "cloud",
    }
    assert "hunter2" not in json.dumps(shape)
    assert spec_shape(json.dumps({**SPEC, "job": {"a": "hunter2"}}))["job"] == "object"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"task": 3}', '"x"', '{"task": {}}', "7"])
def test_a_cluster_spec_that_is_none_is_told_of_without_an_error(text: str | None) -> None:
    shape = spec_shape(text)
    assert shape["given"] is bool(text)
    assert bool(shape["error"]) is bool(text), "without one it is a world of its own"


@settings(max_examples=30)
@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda it: st.dictionaries(st.text(), it))
)
def test_whatever_is_there_is_told_of(spec: Any) -> None:
    shape = spec_shape(json.dumps(spec))
    assert json.loads(json.dumps(shape)) == shape


class Says(BaseHTTPRequestHandler):
    """A metadata server that has one value, and a very long one."""

    def do_GET(self) -> None:
        assert self.headers["Metadata-Flavor"] == "Google"
        known = {"instance/preempted": b"FALSE\n", "instance/zone": b"z" * 9999}
        text = known.get(self.path.removeprefix("/computeMetadata/v1/"))
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write(text or b"secret page")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


def test_what_the_metadata_server_serves_is_told_and_what_not(server: str) -> None:
    found = metadata({"GCE_METADATA_HOST": server})
    assert (found["answers"], found["error"]) == (True, "")
    assert found["values"]["instance/preempted"] == "FALSE"
    assert len(found["values"]["instance/zone"]) == 300
    others = {*VALUES} - {"instance/preempted", "instance/zone"}
    assert {found["values"][name] for name in others} == {None}
    assert not any("token" in name or "attributes" in name for name in VALUES)


def test_one_that_is_not_there_is_asked_once() -> None:
    found = metadata({"GCE_METADATA_HOST": "127.0.0.1:9"})
    assert (found["answers"], found["values"]) == (False, {})
    assert "refused" in found["error"]


def test_a_host_is_told_of_with_its_addresses(tmp_path: Path) -> None:
    (tmp_path / "gcs").mkdir()
    found = json.loads(json.dumps(host(tmp_path)))
    assert found["gcs"] is True and found["shared_memory"] is None
    assert "127.0.0.1" in [it for them in found["addresses"].values() for it in them]


def test_of_the_environment_names_are_told() -> None:
    env = {
        "AIP_MODEL_DIR": "gs://secret",
        "SWELL_TOKEN": "s",
        "CLOUD_ML_JOB_ID": "7",
        "PASSWORD": "",
    }
    assert environment_names(env) == ["AIP_MODEL_DIR", "CLOUD_ML_JOB_ID"]
