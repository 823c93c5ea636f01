"""What a person sees when a run has ended."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from launcher.status.history import History
from launcher.status.status import Outcome, build_status
from launcher.supervision.attempt import Attempt
from launcher.views.summary import print_summary
from tests.launcher.status.events import RIDE, event, steps
from trainer.rundir.events import Event


def summary(outcome: Outcome, *more: Event, **known: Any) -> str:
    file = io.StringIO()
    status = build_status("digits-1", History([*RIDE, *more]), [], outcome) | known
    print_summary(Console(width=80, file=file), status, "/runs/" + "x" * 100, 61.0)
    return file.getvalue()


def test_the_summary_of_a_success() -> None:
    text = summary(Outcome("succeeded", "training is complete", {"test_accuracy": 0.95}))
    assert "digits-1 succeeded after 1:01" in text
    assert "16 completed, 1 lost" in text
    assert "1 replica, with notice" in text and "1 replica, without notice" in text
    assert "test accuracy   0.95" in text
    # Steps 2 to 16, from 101 to 140 by the workers' clocks.
    assert re.search(r"speed +0.3846 steps/s \(mean, with pauses\)\n", text)
    assert "/runs/" + "x" * 100 in text, "a path is not broken"
    assert "training is complete" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_the_summary_of_a_failure_ends_with_its_traceback() -> None:
    reason = "the task raised\nTraceback:\n  File x\nZeroDivisionError: 1/0"
    assert summary(Outcome("failed", reason, {})).rstrip().endswith(reason)


def test_a_loss_that_is_no_number_is_in_the_summary() -> None:
    text = summary(Outcome("failed", "", {}), steps(3, 150.0, 17, [0.9, "nan"]))
    assert re.search(r"loss +nan \(since step 18\)", text)


def test_the_attempt_that_trained_is_in_the_summary_however_many_were_tried_beside_it() -> None:
    """As of a run that was to move where no machines are."""
    us = "us-central1"
    trained = Attempt(1, us, "http://a", state="SUCCEEDED", started=1.0, ended=100.0)
    vain = [
        Attempt(n, "us-east1", "http://a", state="CANCELLED", created=n, ended=n + 1.0)
        for n in range(2, 12)
    ]
    attempts = [it.to_json() for it in (trained, *vain)]
    status = build_status("digits-1", History(RIDE), attempts, Outcome("succeeded", "", {}))
    file = io.StringIO()
    print_summary(Console(width=80, file=file), status, "/runs/1", 61.0)
    shown = re.findall(r"attempt (\d+) +(\S+), (\w+)", file.getvalue())
    assert shown[0] == ("1", us, "succeeded")
    assert [number for number, _, _ in shown] == ["1", "8", "9", "10", "11"], "and the last others"


def test_what_machines_do_and_their_critical_errors_are_in_the_summary() -> None:
    gpus = [{"used": 0.97}, {"used": 0.09, "xid": 79.0}]
    machines = {"workerpool1-0": {"cpu": 0.25, "gpus": gpus}}
    text = summary(Outcome("failed", "", {}), machines=machines)
    said = "processors 25% used, GPUs 53% (least: GPU 1 of workerpool1-0, 9%)"
    assert re.sub(r"\s+", " ", text).count(f"machines {said}") == 1
    assert "\nworkerpool1-0: GPU 1 reports Xid 79: it has fallen off the bus\n" in text
    assert "machines" not in summary(Outcome("failed", "", {}))


def test_what_was_left_out_is_in_the_summary() -> None:
    assert "16 completed, 1 lost, 1 left out" in summary(
        Outcome("succeeded", "", {}), event("nonfinite", 130.0, step=12, action="skip")
    )
