"""What a run's events tell of how machines are taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from launcher.cli import app
from launcher.sightings import Sightings, read_sightings, seen_in
from tests.examples import examples
from tests.launcher.supervision.policy_run import job

HERE = "https://us-central1-aiplatform.googleapis.com"
BLANK = Sightings(run="one", at=1e9, endpoints=[HERE], project="p")


def event(kind: str, at: float, **more: Any) -> dict[str, Any]:
    return {"event": kind, "time": at, **more}


def drain(
    at: float, member: str, reason: str = "SIGTERM", incarnation: str = "a"
) -> dict[str, Any]:
    return event("drain", at, member=member, reason=reason, incarnation=incarnation)


def loss(at: float, member: str, gone: bool = True, incarnation: str = "a") -> dict[str, Any]:
    return event("loss", at, member=member, reason="silent", incarnation=incarnation, gone=gone)


def formed(at: float, cause: str, *members: str) -> dict[str, Any]:
    return event("generation_formed", at, cause=cause, members=[*members], generation=2)


def test_a_notice_after_which_the_others_train_on() -> None:
    told = [
        drain(10.0, "workerpool1-0"),
        drain(10.5, "workerpool1-0", "preemption notice"),  # of the same VM: it counts once
        formed(11.0, "drain", "workerpool0-0", "workerpool1-1"),
        event("member_joined", 70.0, member="workerpool1-0", incarnation="b"),
    ]
    found = seen_in(BLANK, told[::-1])
    assert found == replace(BLANK, sigterm=1, survived=1, back=[60.0])
    assert found.in_words().endswith(
        ": 1 replica taken away (1 after SIGTERM); the others of its job trained on 1 of 1 times; "
        "1 replica came back by 60 s"
    )


def test_one_that_is_cut_off_before_it_has_left_tells_the_grace() -> None:
    told = [drain(10.0, "workerpool1-0", "preemption notice"), loss(24.0, "workerpool1-0")]
    assert seen_in(BLANK, told) == replace(BLANK, metadata=1, cut=[14.0])


def test_a_loss_with_which_the_whole_job_ends() -> None:
    told = [
        loss(10.0, "workerpool1-0"),
        event("attempt_ended", 50.0, attempt=1, verdict="stockout"),
        event("attempt_started", 60.0, attempt=2),
        event("member_joined", 70.0, member="workerpool1-0", incarnation="b"),
        formed(71.0, "loss", "workerpool0-0"),
    ]
    assert seen_in(BLANK, told) == replace(BLANK, silent=1, ended=1), "it came with another job"


def test_in_a_fleet_only_those_of_the_same_job_tell_of_it() -> None:
    told = [loss(10.0, "2/workerpool0-0"), formed(11.0, "loss", "1/workerpool0-0")]
    assert seen_in(BLANK, told) == replace(BLANK, silent=1)
    ends = event("attempt_ended", 20.0, attempt=1, verdict="stockout")
    assert seen_in(BLANK, [*told, ends]).ended == 0, "another job's end"
    ends = event("attempt_ended", 20.0, attempt=2, verdict="stockout")
    assert seen_in(BLANK, [*told, ends]).ended == 1
    both = [*told[:1], formed(11.0, "loss", "1/workerpool0-0", "2/workerpool1-0")]
    assert seen_in(BLANK, both).survived == 1


@pytest.mark.parametrize(
    "why",
    [
        event("finished", 9.0, state="cancelled"),
        event("attempt_ended", 40.0, attempt=2, verdict="cancelled"),
        event("attempt_replaced", 5.0, attempt=2),
    ],
)
def test_a_replica_that_is_sent_away_was_not_taken(why: dict[str, Any]) -> None:
    told = [drain(10.0, "2/workerpool1-0"), loss(11.0, "2/workerpool0-0"), why]
    assert seen_in(BLANK, told) == BLANK
    another = {**why, "attempt": 1}
    if why["event"] != "finished":
        assert seen_in(BLANK, [*told[:2], another]).any


def test_what_was_no_machine_that_was_taken_counts_for_nothing() -> None:
    told = [
        drain(10.0, "workerpool1-0", "not wanted any more"),
        loss(20.0, "workerpool1-1", gone=False),
        formed(21.0, "loss", "workerpool0-0"),
        event("loss", 30.0),
        event("drain", 30.0, reason="SIGTERM"),
    ]
    assert seen_in(BLANK, told) == BLANK and not BLANK.any


@settings(max_examples=examples(30))
@given(
    st.lists(
        st.builds(
            lambda kind, at, member, reason, gone: event(
                kind, at, member=member, reason=reason, gone=gone, members=["workerpool0-0"]
            ),
            st.sampled_from(["drain", "loss", "generation_formed", "member_joined", "other"]),
            st.floats(0, 500) | st.text(),
            st.sampled_from(["workerpool0-0", "1/workerpool0-0", "/", None, 7]),
            st.sampled_from(["SIGTERM", "x", None]),
            st.booleans() | st.none(),
        )
    )
)
def test_events_of_any_form_are_counted(events: list[dict[str, Any]]) -> None:
    found = seen_in(BLANK, events)
    assert found.survived + found.ended <= found.sigterm + found.metadata + found.silent
    assert all(seconds >= 0 for seconds in (*found.cut, *found.back))


def test_plan_shows_the_newest_of_the_same_place(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    monkeypatch.delenv("SWELL_VERTEX_ENDPOINT", raising=False)
    for number in range(5):
        replace(BLANK, run=f"run-{number}", at=1e9 + number, silent=2).keep(tmp_path)
    replace(BLANK, run="none-taken", at=2e9).keep(tmp_path)
    replace(BLANK, run="elsewhere", at=2e9, silent=1, endpoints=["x"]).keep(tmp_path)
    replace(BLANK, run="not-mine", at=2e9, silent=1, project="q").keep(tmp_path)
    (tmp_path / "probes" / "seen-x.json").write_text("[")
    assert len(read_sightings(tmp_path, "p", [HERE, "y"])) == 5
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(job(project="p", regions=["us-central1"]).to_dict()))
    answer = CliRunner().invoke(app, ["plan", str(file), "--format", "table"])
    assert answer.exit_code == 0, answer.output
    seen = [line for line in answer.stdout.splitlines() if line.startswith("seen by run")]
    assert [line.split()[3] for line in seen] == ["run-4", "run-3", "run-2"]
    assert seen[0].endswith(": 2 replicas taken away (2 without notice)")
