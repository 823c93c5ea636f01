"""The run directory: JSON objects, and one outcome."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.rundir import directory as rundir
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import OUTCOME, RUN, OutcomeState


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def test_an_object_comes_back(run_dir: RunDirectory) -> None:
    run_dir.write_json(RUN, {"id": "r1", "spec": {"n": [1, 2.5, None, "é"]}})
    assert run_dir.run() == {"id": "r1", "spec": {"n": [1, 2.5, None, "é"]}}


def test_a_file_is_for_people_too(run_dir: RunDirectory) -> None:
    run_dir.write_json("a.json", {"b": 1, "a": 2})
    assert run_dir.store.read("a.json") == b'{\n "a": 2,\n "b": 1\n}\n'


def test_create_makes_an_object_once(run_dir: RunDirectory) -> None:
    assert run_dir.create_json("a.json", {"a": 1})
    assert not run_dir.create_json("a.json", {"a": 2})
    assert run_dir.read_json("a.json")["a"] == 1


def test_what_does_not_exist(run_dir: RunDirectory) -> None:
    assert run_dir.find_json("a.json") is None
    assert run_dir.outcome() is None
    with pytest.raises(FileNotFoundError):
        run_dir.run()


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"3", b'"text"', b"null", b"\xff\xfe\xfd"])
def test_what_is_no_object_is_a_value_error(run_dir: RunDirectory, data: bytes) -> None:
    run_dir.store.write("a.json", data)
    for read in (run_dir.read_json, run_dir.find_json):
        with pytest.raises(ValueError):
            read("a.json")


def test_a_file_that_is_not_an_object_is_named(run_dir: RunDirectory) -> None:
    run_dir.store.write("a.json", b"[]")
    with pytest.raises(ValueError, match=r"/a\.json does not hold a JSON object"):
        run_dir.read_json("a.json")


def test_a_giant_is_not_taken_in(run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "JSON_LIMIT", 100)
    run_dir.store.write("a.json", b'{"a": "%s"}' % (b"x" * 100))
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        run_dir.read_json("a.json")


def test_a_run_ends_once(run_dir: RunDirectory) -> None:
    assert run_dir.end("succeeded", "trained to the end", term=3, metrics={"accuracy": 0.9})
    assert not run_dir.end("failed", "too late")
    outcome = run_dir.outcome()
    assert outcome is not None
    assert isinstance(outcome.pop("time"), float)
    assert outcome.pop("owner")
    assert outcome == {
        "state": "succeeded",
        "reason": "trained to the end",
        "term": 3,
        "metrics": {"accuracy": 0.9},
    }


def test_an_outcome_of_before_leaders_had_terms_is_read(run_dir: RunDirectory) -> None:
    before = {"state": "succeeded", "reason": "", "epoch": 3, "metrics": {}, "time": 1.0}
    run_dir.write_json(OUTCOME, before)
    del before["epoch"]
    assert run_dir.outcome() == {**before, "term": 3}


def test_of_all_who_end_a_run_one_counts(run_dir: RunDirectory) -> None:
    states: list[OutcomeState] = ["succeeded", "failed", "cancelled"] * 4
    with ThreadPoolExecutor(len(states)) as pool:
        won = list(pool.map(lambda state: run_dir.end(state, state), states))
    assert won.count(True) == 1
    outcome = run_dir.outcome()
    assert outcome is not None
    assert outcome["state"] == states[won.index(True)]
    assert run_dir.store.names() == [OUTCOME]
