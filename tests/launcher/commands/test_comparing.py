"""``swell compare``: what differs first, then figures side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from launcher.cli import app
from launcher.commands.options import other_run_ids
from launcher.status.configuration import configured, differences, flat
from tests.launcher.recorded_run import record_run
from tests.launcher.status.events import RIDE
from tests.launcher.status.test_ledger import BEGINS, ENDS, trained
from trainer.rundir.batches import Batch, encode
from trainer.rundir.events import Event
from trainer.rundir.numbers import dumped


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return tmp_path


def recorded(name: str, events: list[Event], **fields: Any) -> None:
    directory = record_run(name)
    run = directory.run()
    run["spec"] |= fields
    directory.write_json("run.json", run)
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, events)))
    directory.end("succeeded", "training is complete")


def compare(*words: str) -> Result:
    return CliRunner().invoke(app, ["compare", *words])


def test_what_differs_comes_first_and_then_the_figures() -> None:
    recorded("one", [*BEGINS, trained(), ENDS], args={"lr": 0.1, "width": 8})
    recorded("two", RIDE, args={"lr": 0.2, "width": 8}, min_workers=2)
    answer = compare("one", "two")
    assert answer.exit_code == 0, answer.output
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert rows[0] == ["differs", "in", "the", "job", "one", "two"]
    assert rows[1:3] == [["args.lr", "0.1", "0.2"], ["min_workers", "-", "2"]]
    assert rows[3] == [] and rows[4] == ["figure", "one", "two"]
    assert ["steps", "done", "again", "0", "1"] in rows
    assert ["lost", "without", "0", "1"] in rows
    assert ["metric", "test_accuracy", "-", "0.9"] in rows
    assert ["against", "on", "demand", "8.3", "%", "more", "-"] in rows
    assert "width" not in answer.stdout and "\x1b" not in answer.stdout
    assert not [row for row in rows if row[:1] == ["tokens/s,"]], "no run has it"


def test_programs_get_the_same() -> None:
    recorded("one", RIDE)
    recorded("two", RIDE)
    answer = compare("one", "two", "--json")
    told = json.loads(answer.stdout)
    assert told["runs"] == ["one", "two"] and told["configuration"] == {}
    assert told["figures"]["steps"] == ["16", "16"]
    assert "The jobs do not differ." in compare("one", "two").stdout


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["one"], "swell: 1 to compare: name between two and 8 different runs [SW6225]"),
        (["one", "one"], "swell: 1 to compare: name between two and 8 different runs [SW6225]"),
        ([f"r{n}" for n in range(9)], "swell: 9 to compare: name between two and 8"),
        (
            ["one", "on"],
            "swell: two of the names are of the same run; name different ones [SW6225]",
        ),
        (["one", "none"], "swell: none: there is no such run"),
    ],
)
def test_bad_input_is_told(names: list[str], said: str) -> None:
    recorded("one", RIDE)
    answer = compare(*names)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(said)


def test_variables_differ_without_being_shown() -> None:
    recorded("one", RIDE, env={"TOKEN": "very-secret", "SAME": "x"})
    recorded("two", RIDE, env={"TOKEN": "other-secret", "SAME": "x"})
    answer = compare("one", "two")
    assert "secret" not in answer.stdout and "SAME" not in answer.stdout
    row = " ".join(answer.stdout.splitlines()[1].split())
    assert row == "env.TOKEN value 1, not shown value 2, not shown"
    assert "secret" not in compare("one", "two", "--json").stdout


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_what_is_equal_does_not_differ(spec: Any) -> None:
    assert differences([spec, json.loads(json.dumps(spec))]) == {}
    assert all(isinstance(value, str) for value in flat(spec).values())


def test_the_fields_of_a_list_are_in_its_order() -> None:
    specs = [{"market": [{"at": f"{n + add} steps"} for n in range(12)]} for add in (0, 1)]
    assert [*differences(specs)] == [f"market.{n}.at" for n in range(12)]


def test_a_field_is_named_by_its_path() -> None:
    pools = [{"machine": "a", "env": {"A": "1"}}, {"machine": "b", "zones": ["x", "y"]}]
    assert flat({"pools": pools, "args": {}, "project": None}) == {
        "pools.0.machine": "a",
        "pools.0.env.A": "set, not shown",
        "pools.1.machine": "b",
        "pools.1.zones": '["x", "y"]',
    }


def test_which_code_was_sent_is_part_of_what_differs() -> None:
    def run(digit: str, code: object = ".") -> dict[str, Any]:
        return {"spec": {"code": code}, "settings": {"code": {"sha256": digit * 64}}}

    assert flat(configured(run("a"))) == {"code.folder": ".", "code.sha256": "a" * 12}
    code = {"folder": ".", "exclude": ["x"]}
    assert configured(run("a", code)) == {"code": {**code, "sha256": "a" * 12}}
    assert differences([configured(run(it)) for it in "ab"]) == {
        "code.sha256": ["a" * 12, "b" * 12]
    }
    assert configured({"spec": {"name": "j"}, "settings": {}}) == {"name": "j"}


def test_an_id_that_stands_there_already_is_not_completed_again() -> None:
    for name in ("one", "other", "two"):
        recorded(name, RIDE)
    context = typer.Context(typer.main.get_command(app))
    context.params = {"runs": ["other"], "as_json": False}
    assert sorted(other_run_ids(context, "")) == ["one", "two"]
    assert other_run_ids(context, "o") == ["one"]
