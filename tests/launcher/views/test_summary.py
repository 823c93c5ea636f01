"""What a person sees when a run has ended."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

from rich.console import Console

from launcher.job.fallback import Limits
from launcher.status.history import History
from launcher.status.status import Outcome, build_status
from launcher.supervision.attempt import Attempt
from launcher.views.summary import print_summary
from launcher.words import dollars
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
    assert "16 completed, 1 done again" in text
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


def test_what_no_checkpoint_has_is_lost_with_a_run_that_fails() -> None:
    saved = event("checkpoint_committed", 130.0, step=14)
    end = event("finished", 142.0, state="failed", step=16)
    for lost, events in (16, [end]), (2, [saved, end]):
        text = re.sub(r"\s+", " ", summary(Outcome("failed", "", {}), *events))
        assert f"16 completed, 1 done again, {lost} lost: no checkpoint has them" in text
    assert "no checkpoint has" not in summary(Outcome("succeeded", "", {}))


def test_what_was_spent_is_what_goodput_says_and_what_a_limit_counts_is_told_beside_it() -> None:
    """A VM that was away is not in the first, and is in the second."""
    began = event("attempt_started", 98.0, attempt=1, replicas=3, wanted=3, usd_per_hour=108.0)
    taken = Attempt(1, "us-east1", "http://127.0.0.1:1", state="SUCCEEDED", usd_per_hour=108.0)
    taken = replace(taken, started=98.0, ended=141.0)
    outcome, told = Outcome("succeeded", "", {}), {}
    for name, limits in {"one": Limits(), "two": Limits.model_validate({"cost": "5 USD"})}.items():
        status = build_status(
            "one", History([began, *RIDE]), [taken.to_json()], outcome, limits=limits
        )
        file = io.StringIO()
        print_summary(Console(width=80, file=file), status, "/runs/1", 61.0)
        told[name] = re.sub(r"\s+", " ", file.getvalue())
    spent = dollars(status["ledger"]["spent"])
    assert f"spent about {spent} USD steps" in told["one"]
    assert spent != "1.29" and f"about {spent} USD, 1.29 USD count against the limit" in told["two"]


def test_a_script_has_completed_at_least_what_it_has_told_of() -> None:
    def script(*reported: int) -> str:
        formed = event("generation_formed", 1.0, generation=1, world_size=1, cause="start")
        told = [formed, event("resumed", 2.0, generation=1, cause="start")]
        told += [steps(1, 3.0 + step, step, [1.0]) for step in reported]
        told.append(event("output_committed", 30.0, names=["ck-000070.pt"]))
        file = io.StringIO()
        status = build_status("one", History(told), [], Outcome("succeeded", "", {}), now=42.0)
        print_summary(Console(width=80, file=file), status, "/runs/1", 61.0)
        return re.sub(r" +", " ", file.getvalue())

    text = script(20, 40, 60)
    assert "at least 60 completed" in text and " 1 1 start 0\n" in text, "not from step 19"
    assert "output saved 12 s ago, with ck-000070.pt" in text
    assert " 3 completed" in script(1, 2, 3), "it tells of each"
    assert "at least 20 completed" in script(20)


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
    assert "16 completed, 1 done again, 1 left out" in summary(
        Outcome("succeeded", "", {}), event("nonfinite", 130.0, step=12, action="skip")
    )
