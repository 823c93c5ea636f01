"""``swell goodput``: where the time of a run's VMs went, on a terminal and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from launcher.commands.goodput import INTERVALS
from tests.launcher.recorded_run import record_run
from tests.launcher.status.test_ledger import BEGINS, ENDS, trained
from trainer.rundir.batches import Batch, encode
from trainer.rundir.events import Event
from trainer.rundir.numbers import dumped


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    return tmp_path


def recorded(events: list[Event]) -> None:
    directory = record_run("one")
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, events)))
    directory.end("succeeded", "training is complete")


def said(*options: str) -> str:
    answer = CliRunner().invoke(app, ["goodput", "one", *options])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_the_table_has_every_account_and_what_follows_from_them() -> None:
    recorded([*BEGINS, trained({"all": 32.0, "data_wait": 8.0}), ENDS])
    lines = [line.split() for line in said().splitlines()]
    assert ["absent", "2:10", "50.0", "%", "0.00"] not in lines, "there is no money in it"
    assert ["absent", "2:10", "50.0", "%"] in lines
    assert ["training", "30", "s", "11.5", "%", "23.1", "%", "0.01"] in lines
    assert ["waiting", "for", "data", "10", "s", "3.8", "%", "7.7", "%", "0.00"] in lines
    text = " ".join(said().split())
    assert "goodput 23.1 % of the time of the VMs that were there" in text
    assert "11.5 % of the time of those that were wanted" in text
    assert "cost about 0.04 USD, 23.1 % of it for training" in text
    assert "that is 44.4 % more than the 0.03 USD of the same training on demand" in text


def test_programs_get_the_ledger_as_json_and_its_parts() -> None:
    recorded([*BEGINS, trained(), ENDS])
    whole = json.loads(said("--json"))
    assert whole["seconds"]["training"] == 40.0
    assert sum(whole["seconds"].values()) == whole["wanted"] == 260.0
    assert whole["goodput"] == {"there": 0.307692, "wanted": 0.153846, "usd": 0.307692}
    parts = json.loads(said("--json", "--every", "50s"))
    assert [one["until"] - one["since"] for one in parts] == [50.0, 50.0, 30.0]
    assert sum(one["seconds"]["training"] for one in parts) == 40.0
    last = json.loads(said("--json", "--since", "30s", "--until", "10s"))
    assert (last["since"], last["until"]) == (100.0, 120.0)
    assert "VMs there" in said("--every", "1min") and "lost to" in said("--every", "1min")


def test_a_run_of_which_nothing_is_known_says_so() -> None:
    recorded([])
    assert "no VM was asked for" in said()
    assert said("--json").strip() == "null"


@pytest.mark.parametrize(
    "options, id, what",
    [
        (["--since", "1h", "--until", "2h"], "SW6217", "leave no time"),
        (["--every", "100ms"], "SW6218", f"at most {INTERVALS}"),
        (["--every", "0s"], "SW6218", "must be longer than 0"),
        (["--since", "soon"], "SW1012", "--since"),
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], id: str, what: str) -> None:
    recorded([*BEGINS, trained(), ENDS])
    answer = CliRunner().invoke(app, ["goodput", "one", *options])
    assert answer.exit_code == 2
    assert id in answer.output and what in answer.output
