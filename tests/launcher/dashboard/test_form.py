"""The form of a job: every field of the schema is in it, and what is typed becomes a job file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.dashboard.form import Form, as_yaml
from launcher.dashboard.planning import Planner
from launcher.job.json_schema import job_schema
from trainer.rundir.usererror import Unusable

FORM = Form(job_schema())
NASTY = "\"'><script>alert(1)</script>"
FITS = {
    "name": "digits",
    "task": "m:C",
    "pools.0.machine": "a2-highgpu-1g",
    "pools.1.machine": "a2-highgpu-1g",
    "pools.1.replicas": "3",
    "project": "my-project",
    "regions": "[us-central1]",
    "output": "gs://bucket/runs",
    "container.image": "IMAGE",
}


class Fields(HTMLParser):
    """The fields of a form, what is in them, and their labels."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.labels: set[str] = set()
        self.tags: set[str] = set()
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {key: value or "" for key, value in attrs}
        self.tags.add(tag)
        self._in = ""
        if "name" in told:
            self.values[told["name"]] = told.get("value", "")
            self._in = told["name"] if tag == "textarea" else ""
        if tag == "label":
            self.labels.add(told["for"])

    def handle_data(self, data: str) -> None:
        if self._in:
            self.values[self._in] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


def test_every_field_of_a_job_is_there_and_has_a_label() -> None:
    fields = Fields(FORM.html({}))
    tops = {name.split(".")[0] for name in fields.values}
    assert tops == set(job_schema()["properties"])
    assert set(fields.values) == fields.labels
    assert {"elastic.min_workers", "pools.0.machine", "pools.0.replicas"} <= set(fields.values)
    assert not any(name.startswith("pools.1.machine.") for name in fields.values)


def test_what_was_typed_stays() -> None:
    values = {"name": NASTY, "args": f"lr: {NASTY}\n  x: 1", "pools.0.replicas": NASTY}
    fields = Fields(FORM.html(values))
    assert {name: fields.values[name] for name in values} == values
    assert "script" not in fields.tags


def test_there_is_room_for_one_more_of_a_list() -> None:
    fields = Fields(FORM.html({"pools.0.machine": "a2-highgpu-1g"}))
    assert "pools.1.machine" in fields.values and "pools.2.machine" not in fields.values
    full = {f"pools.{n}.machine": "a2-highgpu-1g" for n in range(4)}
    assert "pools.4.machine" not in Fields(FORM.html(full)).values, "there are four at the most"


def test_fields_become_a_job_file() -> None:
    text = as_yaml(FORM.tree({**FITS, "args": "lr: 0.1", "audit": "true", "timeout": " "}))
    assert yaml.safe_load(text) == {
        "name": "digits",
        "task": "m:C",
        "args": {"lr": 0.1},
        "container": {"image": "IMAGE"},
        "pools": [
            {"machine": "a2-highgpu-1g"},
            {"machine": "a2-highgpu-1g", "replicas": 3},
        ],
        "audit": True,
        "project": "my-project",
        "regions": ["us-central1"],
        "output": "gs://bucket/runs",
    }


def test_a_text_is_a_text_and_a_number_a_number() -> None:
    assert FORM.tree({"name": "007", "pools.0.replicas": "007"}) == {
        "name": "007",
        "pools": [{"replicas": 7}],
    }


def test_a_field_that_is_no_yaml_is_named() -> None:
    with pytest.raises(Unusable) as raised:
        FORM.tree({"env": "a: [1"})
    assert raised.value.id == "SW6295" and str(raised.value).startswith("env: is not YAML: ")


@given(st.dictionaries(st.sampled_from(sorted(Fields(FORM.html({})).values)), st.text(max_size=20)))
def test_whatever_is_typed_is_a_file_or_an_error(values: dict[str, str]) -> None:
    try:
        tree = FORM.tree(values)
    except Unusable as error:
        assert error.id == "SW6295"
        return
    assert yaml.safe_load(as_yaml(tree)) == (tree or None)


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return Planner(tmp_path, {"MACHINE": "a2-highgpu-8g"})


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_a_job_has_its_plan(planner: Planner) -> None:
    text = text_of(planner.plan(FITS))
    assert "workerpool1 a2-highgpu-1g 3 3" in text and "USD per hour" in text
    assert "displayName: digits-DATE-TIME-ID" in text and "It is no job yet" not in text


def test_a_file_is_shown_as_it_is_to_be_saved(planner: Planner) -> None:
    html = planner.plan({**FITS, "args": "{model: {width: 3}}"})
    assert "args:\n  model:\n    width: 3\n" in html
    assert re.search(r"workerpool1 +a2-highgpu-1g +3 +3 ", html), "a table stays one"


def test_variables_are_those_of_the_dashboard(planner: Planner) -> None:
    text = text_of(planner.plan({**FITS, "pools.1.machine": "${MACHINE}"}))
    assert "workerpool1 a2-highgpu-8g 3 24" in text
    assert "line 1" in text_of(planner.plan({**FITS, "name": "${OTHER}"}))


def test_what_is_wrong_stands_beside_the_line(planner: Planner) -> None:
    text = text_of(planner.plan({**FITS, "pools.1.replicas": "none", "name": "No"}))
    assert "It is no job yet" in text and "line 1: name: " in text and "[SW1012]" in text
    assert "pools.1.replicas: " in text and "replicas: none" in text


def test_an_empty_form_has_a_word_for_what_is_missing(planner: Planner) -> None:
    assert "name: is missing; add it [SW1008]" in text_of(planner.plan({}))
    assert "is not YAML" in text_of(planner.plan({"env": "["}))


def test_what_is_typed_is_text(planner: Planner) -> None:
    for field in ("name", "task", "pools.0.machine", "args", "output"):
        html = planner.plan({**FITS, field: NASTY})
        assert "<script" not in html and "alert(1)" in html


def test_a_plan_is_shown_whole_however_long_it_is(planner: Planner) -> None:
    env = {f"NAME_{n}": f"{n}-" + "x" * 1500 for n in range(40)}
    text = text_of(planner.plan({**FITS, "env": json.dumps(env)}))
    for name, value in env.items():
        assert text.count(name) >= 2 and text.count(value) >= 2, "in the file, and in the request"
    assert "displayName: " in text
