"""Numbers that JSON lacks, in files: one encoding, for whatever is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoints.manifest import Manifest, read_manifest
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events
from trainer.rundir.numbers import dumped, named, number_in, numbers_in

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def strict(text: bytes | str) -> Any:
    """What a reader makes of it that takes JSON by its word."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@given(values)
def test_whatever_is_written_is_json(value: Any) -> None:
    assert strict(dumped(value)) == named(value)


@given(st.floats())
def test_a_number_comes_back(number: float) -> None:
    found = number_in(strict(dumped(number)))
    assert found == number or (math.isnan(number) and found is not None and math.isnan(found))


@pytest.mark.parametrize("other", ["NaN", "Infinity", "", "1", None, True, [], {}])
def test_what_is_no_number(other: Any) -> None:
    assert number_in(other) is None
    assert numbers_in({"a": other, "b": "inf"}) == {"b": math.inf}
    assert numbers_in([other]) == {}


def test_files_of_a_run_that_has_diverged_are_json(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    writer = EventWriter(run_dir, "one", clock=lambda: 1.0)
    writer.emit("evaluated", step=1, metrics={"loss": math.nan})
    writer.emit("steps", first=1, metrics={"loss": [1.0, -math.inf]})
    writer.flush()
    run_dir.end("succeeded", "done", metrics={"loss": math.nan, "norm": math.inf})
    manifest = Manifest(3, "1-1", {}, [], [], {"metrics": {"loss": math.nan}})
    run_dir.create_json("checkpoints/step-000000003/manifest.json", manifest.to_json())
    for path in tmp_path.rglob("*.json*"):
        for text in (
            path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        ):
            strict(text)
    assert [one["metrics"] for one in read_events(run_dir)] == [
        {"loss": "nan"},
        {"loss": [1.0, "-inf"]},
    ]
    assert (run_dir.outcome() or {})["metrics"] == {"loss": "nan", "norm": "inf"}
    assert read_manifest(run_dir, 3).about == {"metrics": {"loss": "nan"}}
