"""The one table of a run's states: it covers what there is, and all who use it agree."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from rich.style import Style
from typer.testing import CliRunner

from launcher.cli import app
from launcher.run_states import BAD_INPUT, STATES, State, info_of
from launcher.status.history import History
from launcher.status.status import Outcome, state_of
from launcher.supervision.attempt import SUBMITTING
from launcher.supervision.webhook import end_message
from launcher.views.runs import STATE_OF_JOB
from launcher.words import line_of
from trainer.rundir.attempts import ENDED
from trainer.rundir.events import Event
from trainer.rundir.names import OutcomeState

ROOT = Path(__file__).parents[2]
ENDS = get_args(OutcomeState)


def test_the_table_has_every_state_and_an_ending_for_each_that_is_one() -> None:
    assert tuple(STATES) == get_args(State)
    assert {state for state, info in STATES.items() if info.ending} == set(ENDS)


def test_status_shows_no_other_state() -> None:
    waiting: Event = {"event": "waiting", "time": 1.0}
    formed: Event = {"event": "generation_formed", "time": 1.0, "generation": 1}
    histories = [History(), History([waiting]), History([formed])]
    states = (SUBMITTING, "PENDING", "RUNNING", *ENDED)
    attempts = [[], *([{"attempt": 1, "state": state}] for state in states)]
    outcomes = [None, *(Outcome(state, "", {}) for state in ENDS)]
    shown = {
        state_of(history, them, outcome, abandoned)
        for history, them, outcome, abandoned in product(
            histories, attempts, outcomes, (False, True)
        )
    }
    assert shown == set(STATES)


def test_runs_shows_no_other_state() -> None:
    assert set(STATE_OF_JOB.values()) <= set(STATES)
    client = pytest.importorskip("google.cloud.aiplatform_v1")
    known = {state.name.removeprefix("JOB_STATE_") for state in client.JobState}
    assert set(STATE_OF_JOB) <= known and STATE_OF_JOB.keys() >= ENDED & known


@pytest.mark.parametrize("state", STATES)
def test_a_colour_is_one(state: str) -> None:
    assert Style.parse(f"bold {STATES[state].colour}").color


@pytest.mark.parametrize("state", ENDS)
def test_terminal_and_webhook_say_the_same_of_an_end(state: str) -> None:
    ending = STATES[state].ending
    assert line_of({"event": "finished", "time": 1.0, "state": state}) == f"the run {ending}"
    assert end_message({"state": state})["text"] == ending


def test_a_newer_versions_state_is_shown_as_it_is() -> None:
    assert end_message({"state": "suspended", "reason": "x"})["text"] == "suspended: x"
    assert (info_of("suspended").exit_code, info_of("suspended").colour) == (1, "")


def _lists_of_exit_codes() -> dict[str, str]:
    papers = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {path.name: path.read_text() for path in papers}
    texts["--help"] = CliRunner().invoke(app, ["--help"]).stdout
    found = {name: re.search(r"Exit codes:\s([^.]*)\.", text) for name, text in texts.items()}
    return {name: match.group(1) for name, match in found.items() if match}


def test_exit_codes_are_those_that_the_papers_list() -> None:
    lists = _lists_of_exit_codes()
    assert "--help" in lists and len(lists) > 1, "a paper lists them, too"
    for name, text in lists.items():
        codes = dict(re.findall(r"(\d) ([^,]+)", text))
        assert codes.pop(str(BAD_INPUT)) == "bad input", name
        assert set(codes) == {str(STATES[state].exit_code) for state in ENDS}, name
        for state in ENDS:  # "limited" may be "a limit was reached"
            assert state.removesuffix("ed") in codes[str(STATES[state].exit_code)], name


def test_what_the_job_file_says_of_exit_codes() -> None:
    text = (ROOT / "docs/job.md").read_text()
    said = re.findall(r"as `(\w+)`, with exit code (\d)", text)
    assert said
    assert {(state, int(code)) for state, code in said} <= {(s, STATES[s].exit_code) for s in ENDS}
