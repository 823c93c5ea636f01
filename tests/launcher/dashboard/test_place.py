"""Which runs are in a place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launcher import home
from launcher.dashboard.place import Place, PlaceError
from tests.launcher.recorded_run import record_run


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path


def found(place: Place) -> tuple[dict[str, str], list[str]]:
    told: list[str] = []
    return place.runs(told.append), told


def test_by_default_it_is_what_this_machine_knows() -> None:
    url = record_run("one").url
    assert found(Place(None)) == ({"one": url}, [])
    assert Place(None).name == "this machine"


def test_a_folder_has_the_runs_beneath_it(tmp_path: Path) -> None:
    one, two = record_run("one").url, record_run("two").url
    runs = str(tmp_path / "home" / "runs")
    (tmp_path / "home" / "runs" / "no-run").mkdir()
    assert found(Place(runs)) == ({"one": one, "two": two}, [])
    assert found(Place(str(tmp_path / "home"))) == ({"one": one, "two": two}, []), "runs/ in it"
    assert found(Place(one)) == ({"one": one}, []), "itself"


def test_runs_come_and_go(tmp_path: Path) -> None:
    one = record_run("one").url
    place = Place(str(tmp_path / "home" / "runs"))
    assert found(place)[0] == {"one": one}
    two = record_run("two").url
    assert found(place)[0] == {"one": one, "two": two}
    shutil.rmtree(one)
    assert found(place)[0] == {"two": two}


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    shutil.copytree(record_run("one").url, tmp_path / "others" / "one")
    (tmp_path / "others" / "bad").mkdir()
    (tmp_path / "others" / "bad" / "run.json").write_text("{")
    runs, told = found(Place(str(tmp_path / "others")))
    assert runs == {"one": str(tmp_path / "others" / "one")}
    (line,) = told
    assert "bad: cannot be read: " in line and line.endswith("[SW2006]")


def test_a_copy_of_a_run_is_told_and_not_shown(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(record_run("one" + name).url, tmp_path / "others" / name)
        (tmp_path / "others" / name / "run.json").write_bytes(
            (tmp_path / "others" / "a" / "run.json").read_bytes()
        )
    runs, told = found(Place(str(tmp_path / "others")))
    others = f"{tmp_path}/others"
    assert runs == {"onea": f"{others}/a"}
    assert told == [f"{others}/b: is of run onea, as {others}/a is; it is not shown [SW6294]"]


def test_a_bucket_that_is_emulated_here_is_opened_as_its_runs_are(tmp_path: Path) -> None:
    directory = home.directory_for("one", "gs://bucket/runs", "local")
    record = {**record_run("other").run(), "id": "one", "target": "local"}
    directory.store.fs.makedirs("gs://bucket")
    home.create(directory, record)
    assert found(Place("gs://bucket/runs/"))[0] == {"one": "gs://bucket/runs/one"}


def test_no_folder_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(PlaceError) as raised:
        Place(str(tmp_path / "nowhere"))
    assert raised.value.id == "SW6291" and "is no directory" in str(raised.value)
