from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from trainer.rundir.directory import RunDirectory


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def record(run_id: str) -> dict[str, Any]:
    return {"id": run_id}


def create(run_id: str, output: str | None = None) -> RunDirectory:
    directory = home.directory_for(run_id, output)
    home.create(directory, record(run_id))
    return directory


def test_a_run_is_found_by_id_beginning_and_directory(swell_home: Path, tmp_path: Path) -> None:
    here = create("digits-1")
    there = create("other-1", str(tmp_path / "elsewhere"))
    assert here.url == str(swell_home / "runs/digits-1")
    assert there.url == str(tmp_path / "elsewhere/other-1")
    for name in ("digits-1", "dig", here.url):
        assert home.find(name).url == here.url
    for name in ("other-1", "o", there.url):
        assert home.find(name).url == there.url


def test_an_id_that_begins_another_is_not_ambiguous() -> None:
    create("digits")
    create("digits-2")
    assert home.find("digits").url.endswith("/digits")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("d", "could be digits-1, digits-2; write more of the id"),
        ("digitz-1", "there is no such run; did you mean digits-1?"),
        ("zzz", "there is no such run; swell runs lists what there is"),
        ("", "there is no such run"),
        ("/nowhere", "is not a run directory"),
        ("nope://x", "cannot be read"),
    ],
)
def test_a_run_that_is_not_found(name: str, problem: str) -> None:
    create("digits-1")
    create("digits-2")
    with pytest.raises(home.RunError, match=problem):
        home.find(name)


def test_an_id_is_used_once_wherever_the_run_is(tmp_path: Path) -> None:
    create("digits-1", str(tmp_path / "elsewhere"))
    with pytest.raises(home.RunError, match="there is a run of this id already"):
        create("digits-1")
    with pytest.raises(home.RunError, match="there is a run of this id already"):
        create("digits-1", str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("run_id", ["", "A", "a/b", "..", "-a", "a" * 64, "a\n"])
def test_an_impossible_id(run_id: str) -> None:
    with pytest.raises(home.RunError, match="is not a run id"):
        home.check_id(run_id)


def test_a_new_id_is_possible() -> None:
    run_id = home.new_id("a" * 40, 1764000000.0)
    home.check_id(run_id)
    assert run_id.startswith("a" * 40)


def test_a_launch_is_known_to_live_while_it_holds_the_lock() -> None:
    assert not home.launch_lives("one")
    with home.launch_lock("one"):
        assert home.launch_lives("one")
        with (
            pytest.raises(home.RunError, match="is being launched already"),
            home.launch_lock("one"),
        ):
            pass
    assert not home.launch_lives("one")


def test_a_launch_hands_its_lock_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with home.launch_lock("one") as lock:
        child = os.dup(lock)  # as a child inherits it
        assert home.launch_lives("one")
    assert home.launch_lives("one")
    with (
        pytest.raises(home.RunError, match="is looked after"),
        home.launch_lock("one", "is looked after"),
    ):
        pass
    monkeypatch.setenv(home.ENV_LOCK, str(child))
    with home.launch_lock("one"):
        assert home.ENV_LOCK not in os.environ, "it is not for children of the child"
    assert not home.launch_lives("one")


def test_a_run_directory_that_was_removed_is_told_of(tmp_path: Path) -> None:
    (Path(create("digits-1").url) / "run.json").unlink()
    with pytest.raises(
        home.RunError, match=r"digits-1: there is no run\.json in .*; was it removed"
    ):
        home.find("digits-1")
    with pytest.raises(home.RunError, match=r"no run\.json in it; was it removed") as error:
        home.read_run(RunDirectory(str(tmp_path / "gone")))
    assert error.value.id == "SW2005"
