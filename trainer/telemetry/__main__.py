"""A tracker's process: `python -m trainer.telemetry`, started by trainer.telemetry.apart.

It answers each line with how many of its points it has taken, again and again, and at last with
``true``, or with what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from trainer.rundir.numbers import numbers_in
from trainer.telemetry.curves import Point, Span
from trainer.telemetry.traces import Traces
from trainer.telemetry.trackers import MLflow, WandB

TRACKERS: dict[str, type[WandB] | type[MLflow] | type[Traces]] = {
    "wandb": WandB,
    "mlflow": MLflow,
    "traces": Traces,
}

REASON_LIMIT = 300  # characters


def main() -> None:
    """Tells what it is told, until its input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer

    def say(answer: bool | int | str) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    tracker: WandB | MLflow | Traces | None = None
    for line in sys.stdin:
        answer: bool | int | str = True
        try:
            told = json.loads(line)
            if isinstance(told, dict):
                tracker = TRACKERS[told["kind"]](told["where"], told["run"], told["name"])
            elif tracker is None:
                answer = "it does not know which run that is"
            else:
                for taken in tracker.tell([_point(one) for one in told]):
                    say(taken)
        except Exception as error:  # whatever a library raises is told
            answer = f"{type(error).__name__}: {error}"[:REASON_LIMIT]
        say(answer)
    if tracker is not None:
        tracker.close()


def _point(told: dict[str, Any]) -> Point:
    span = told["span"]
    known = {"values": numbers_in(told["values"]), "span": span and Span.from_json(span)}
    return Point(**{**told, **known})


if __name__ == "__main__":
    main()
