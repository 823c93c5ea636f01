"""Events in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.words import (
    dollars,
    line_of,
    number,
    saving_in_words,
    span,
    speed_in_words,
    usd_in_words,
)
from trainer.rundir.events import CAUSES, Event


def event(name: str, **fields: Any) -> Event:
    return {"event": name, "time": 1.0, **fields}


@pytest.mark.parametrize(
    "speed, words",
    [
        ({"steps": None, "samples": None, "data_wait": None}, ""),
        (
            {"steps": 2.0, "tokens": 32768.0, "mfu": 0.417, "flops": 1e15, "left": 3729.0},
            "2 steps/s, 32,768 tokens/s, MFU 41.7 %, 1:02:09 left",
        ),
        ({"samples": 64.0, "flops": 6.4e10, "left": 0.0}, "64 samples/s, 0.064 TFLOP/s"),
        ({"steps": 12.5, "samples": 400.0, "data_wait": None}, "12.5 steps/s, 400 samples/s"),
        ({"steps": 2.0, "samples": None, "data_wait": 0.126}, "2 steps/s, data wait 13 %"),
    ],
)
def test_speed_is_told_as_far_as_it_is_known(speed: dict[str, float | None], words: str) -> None:
    assert speed_in_words(speed) == words


WORTH_A_LINE = [
    (
        event("attempt_started", attempt=2, job="j", region="us-east1", choice="spot, us-east1"),
        "attempt 2: CustomJob submitted in spot, us-east1",
    ),
    (
        event("attempt_ended", attempt=2, state="FAILED", reason="no machines\nand more"),
        "attempt 2 ended: failed (no machines)",
    ),
    (
        event("attempt_due", attempt=3, choice="spot, us-east1", seconds=90),
        "attempt 3 is due in 1:30: spot, us-east1",
    ),
    (event("stockout", attempt=1, region="us-east1"), "no capacity in us-east1"),
    (
        event("attempt_started", attempt=3, region="us-east1", beside=True),
        "attempt 3: CustomJob submitted in us-east1, beside what is dearer",
    ),
    (event("member_ready", member="workerpool1-0"), "workerpool1-0 is ready"),
    (
        event(
            "connected",
            member="2/workerpool0-0",
            peer="1/workerpool1-0",
            latency=0.0012,
            bandwidth=1.25e9,
        ),
        "2/workerpool0-0 and 1/workerpool1-0 reach each other: 1.2 ms, 1,250 MB/s",
    ),
    (
        event("unreachable", member="2/workerpool0-0", reason="a does not reach b: timed out"),
        "2/workerpool0-0 is not let into the world (a does not reach b: timed out)",
    ),
    (
        event("drain", member="workerpool1-0", reason="notice", deadline_seconds=15.0, step=9),
        "workerpool1-0 has notice that it will be taken away; it leaves at the next step",
    ),
    (
        event("drain", member="workerpool1-0", reason="notice", deadline_seconds=15.0, step=0),
        "workerpool1-0 has notice that it will be taken away; it leaves",
    ),
    (
        event("drain", member="a", reason="notice", deadline_seconds=9.0, step=9, script=True),
        "a has notice that it will be taken away; all ranks of the script are to save, and to end",
    ),
    (
        event("drain", member="1/workerpool0-0", reason="not wanted any more"),
        "1/workerpool0-0 leaves at the next step (not wanted any more)",
    ),
    (
        event("attempt_replaced", attempt=1, reason="it is not wanted any more"),
        "attempt 1 goes (it is not wanted any more)",
    ),
    (
        event("controller_started", controller=2, job="j", region="us-east4"),
        "controller 2: CustomJob submitted in us-east4",
    ),
    (
        event("controller_ended", controller=2, state="FAILED", reason="no image"),
        "controller 2 ended: failed (no image)",
    ),
    (
        event("wanted", version=2, jobs=4, region="us-east1", strategy="spot", by="me@here"),
        "wanted from now on: 4 jobs, us-east1, spot (asked by me@here)",
    ),
    (event("wanted", version=1, jobs=1), "wanted from now on: 1 job"),
    (event("loss", member="workerpool1-0", reason="silent"), "workerpool1-0 is lost (silent)"),
    (
        event("generation_formed", generation=3, world_size=1, cause="loss", members=["a"]),
        "generation 3 forms: 1 worker (a worker was lost)",
    ),
    (
        event("generation_formed", generation=3, world_size=2, cause="rollback", members=["a"]),
        "generation 3 forms: 2 workers (the run goes back to a checkpoint)",
    ),
    (
        event("standstill", seconds=31.0, reason="rank 0 computes", stacks="stacks/1.txt"),
        "no step for 31 s: rank 0 computes; their stacks are in stacks/1.txt",
    ),
    (
        event("gpu_error", member="a", reason="GPU 0 reports Xid 79: it has fallen off the bus"),
        "a: GPU 0 reports Xid 79: it has fallen off the bus",
    ),
    (
        event("unfit", member="a", reason="it computes 3 GFLOP/s", then="replica"),
        "a is not let in (it computes 3 GFLOP/s); its replica is started anew",
    ),
    (
        event("straggler", rank=1, member="a", ratio=1.84, reason="a signal stops it", over=False),
        "rank 1 (a) takes 1.8 times as long as the others (a signal stops it)",
    ),
    (
        event("straggler", rank=1, member="a", ratio=1.84, reason="x", then="replica"),
        "rank 1 (a) takes 1.8 times as long as the others (x); it is started anew on another "
        "machine",
    ),
    (
        event("straggler", rank=1, member="a", ratio=1.0, over=True),
        "rank 1 (a) is as fast as the others again",
    ),
    (event("standstill", seconds=31.0, reason="rank 0 waits"), "no step for 31 s: rank 0 waits"),
    (
        event("stalled", generation=3, step=7, seconds=600.5),
        "no step for 10:00, although all workers live",
    ),
    (
        event(
            "held_up", reason="2 of 3 slots are ready", seconds=10.0, limit=60.0, then="it begins"
        ),
        "waiting for 10 s: 2 of 3 slots are ready; in 50 s it begins",
    ),
    (
        event("held_up", reason="1 of 2 slots are ready", seconds=30.0),
        "waiting for 30 s: 1 of 2 slots are ready",
    ),
    (
        event("stalled", generation=3, step=7, seconds=600.5, member="a"),
        "no step for 10:00, although a lives: nobody else has its state, so nobody ends it; swell "
        "logs RUN --replica a says what it does, swell cancel ends it",
    ),
    (event("telemetry_failed", reason="MLflow is told nothing"), "MLflow is told nothing"),
    (
        event("unattended", seconds=600.5, over=False),
        "nobody has looked after the run for 10:00: it goes on, but nobody submits its next "
        "attempt; swell attach does",
    ),
    (
        event("unattended", seconds=7200.0, over=True),
        "somebody looks after the run again, after 2:00:00",
    ),
    (event("no_group", generation=1, world_size=2, reason="rank 0 has not"), "rank 0 has not"),
    (event("no_best", step=3, reason="keep_best goes by x"), "keep_best goes by x"),
    (event("resumed", generation=1, cause="start", step=0), "training starts at step 0"),
    (
        event("resumed", generation=2, cause="loss", step=14, lost_steps=1, seconds=3.0),
        "training goes on at step 14, re-formed in 3 s, 1 step lost",
    ),
    (
        event("rank_failed", member="a", rank=3, generation=1, reason="Trace\nKeyError: 'x'\n"),
        "rank 3 (a) has failed: KeyError: 'x'",
    ),
    (
        event("resized", generation=2, world_size=2, before=3),
        "the world has 2 workers, not 3 any more: a batch that the script sets for each worker is "
        "0.6667 times as large in all",
    ),
    (
        event("waiting", slots=1, min_workers=2),
        "waiting for machines: 1 of at least 2 workers",
    ),
    (event("evaluated", step=16, metrics={"loss": 0.25}), "evaluated at step 16: loss 0.25"),
    (
        event("units", step=1, unit=8, reason="random numbers"),
        "from step 1 on, training goes by units of 8 samples (random numbers)",
    ),
    (event("checkpoint_committed", step=5, bytes=9), "checkpoint of step 5 is saved"),
    (
        event("worker_replaced", step=9, rank=2, reason="it differs", replaced=1),
        "the worker of rank 2 is replaced (it differs)",
    ),
    (
        event("fault", member="a", reason="ECC", whose="machine", faults=2, then="replica"),
        "a has failed (ECC): the machine is at fault; its replica is started anew",
    ),
    (
        event("fault", member="a", reason="no file", whose="newcomer", faults=3, then="out"),
        "a has failed (no file): it could not begin; the run goes on without it",
    ),
    (
        event("fault", member="a", reason="x" * 300, whose="newcomer", faults=3, then="out"),
        f"a has failed ({'x' * 109}…): it could not begin; the run goes on without it",
    ),
    (
        event("begun", step=9, url="/r/checkpoints/step-9", changes=["20 steps in all", "a"]),
        "begins at step 9 with /r/checkpoints/step-9; 20 steps in all; a",
    ),
    (
        event("nonfinite", step=9, rank=1, ids=[3], reason="the loss is nan", action="skip"),
        "step 9: the loss is nan on rank 1: the step is left out",
    ),
    (
        event("nonfinite", step=9, reason="the loss is nan", action="rollback", checkpoint=5),
        "step 9: the loss is nan: back to the checkpoint of step 5",
    ),
    (
        event("micro_batch_halved", rank=1, samples=8, step=4, reason="x"),
        "rank 1 is out of memory: parts have at most 8 samples from now on",
    ),
    (
        event("agent_failed", member="a", attempt=1, reason="no secret [SW4006]"),
        "a cannot take part: no secret [SW4006]",
    ),
    (
        event("task_failed", member="a", rank=3, step=9, reason="Traceback …:\nValueError: x"),
        "the program failed in rank 3 (a) after step 9: ValueError: x",
    ),
    (
        event("task_failed", member="a", rank=3, step=9, reason="no mean [SW5162]\nmore"),
        "the program failed in rank 3 (a) after step 9: no mean [SW5162]",
    ),
    (
        event("task_failed", member="a", rank=0, step=0),
        "the program failed in rank 0 (a) before it had completed a step",
    ),
    (
        event("task_failed", member="a", step=0),
        "the program failed in a worker of a while it loaded",
    ),
    (event("finished", state="limited", step=9), "the run has reached a limit at step 9"),
    (event("finished", state="succeeded"), "the run is complete"),
    (
        event("finished", state="succeeded", step=1060, least=True),
        "the run is complete at step 1060 at least",
    ),
]


@pytest.mark.parametrize(("happened", "line"), WORTH_A_LINE)
def test_what_is_worth_a_line(happened: Event, line: str) -> None:
    assert line_of(happened) == line


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_its_words(cause: str) -> None:
    assert line_of(event("generation_formed", generation=2, world_size=3, cause=cause))


def test_events_that_are_not_as_documented_have_no_line() -> None:
    assert line_of(event("resumed")) is None
    assert line_of(event("generation_formed", generation=1, world_size=2, cause="x")) is None
    assert line_of(event("generation_formed", generation=1, world_size="2", cause="loss")) is None
    assert line_of(event("loss", member=["a"])) is None
    assert line_of(event("resized", world_size=2, before=0)) is None
    assert line_of(event("finished", state="of a newer version")) is None
    assert line_of(event("unheard_of")) is None


def test_what_is_damaged_beside_the_point_is_left_out() -> None:
    assert line_of(event("loss", member="a", reason=5, step="x")) == "a is lost"


def test_spans_are_read_by_people() -> None:
    assert [span(s) for s in (0.41, 5.0, 42.9, 187.0, 3729.0)] == [
        "0.4 s",
        "5 s",
        "42 s",
        "3:07",
        "1:02:09",
    ]


def test_a_metric_may_have_diverged() -> None:
    values = (3.0, 1234.5, 0.25, 1e-5, float("nan"), float("-inf"))
    assert [number(v) for v in values] == ["3", "1234", "0.25", "1.00e-05", "nan", "-inf"]
    assert line_of(event("evaluated", step=1, metrics={"loss": float("inf")}))


def test_less_than_a_cent_is_no_nought() -> None:
    told = [usd_in_words(usd) for usd in (1234.5, 0.005, 0.0049)]
    assert told == ["about 1,234.50 USD", "about 0.01 USD", "less than 0.01 USD"]


@pytest.mark.parametrize(
    ("spent", "saving", "said"),
    [
        (12.0, 0.655, "65.5 % less"),
        (12.0, 0.0, "0.0 % less"),
        (12.0, -0.25, "25.0 % more"),
        (0.0049, 0.655, None),
        (0.0, None, None),
        (12.0, None, None),
        (None, None, None),
    ],
)
def test_a_saving_is_told_where_it_is_known_and_more_than_noise(
    spent: float | None, saving: float | None, said: str | None
) -> None:
    assert saving_in_words(spent, saving) == said


def test_a_sum_is_the_same_however_exactly_it_is_known() -> None:
    """A ledger has all digits, and the status four: as a binary number 0.145 is less than that."""
    told = [dollars(usd) for usd in (0.14503, 0.145, 0.1449, 1234.5)]
    assert told == ["0.15", "0.15", "0.14", "1,234.50"]
    assert dollars(float("inf")) == "inf"
