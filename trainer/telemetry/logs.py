"""Log lines that Cloud Logging understands: one JSON object a line, with severity and labels.

What a container prints on Vertex AI becomes entries of Cloud Logging; a line that is a JSON object
becomes one with the severity, the message and the labels that it names
(cloud.google.com/logging/docs/structured-logging). So a traceback is one entry, a warning is one on
whichever stream it was printed, and ``labels.swell_run`` finds a run in a project's log. That
Vertex AI's own agent takes the labels, too, nobody has verified.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TextIO

from trainer.rundir.batches import Event
from trainer.rundir.names import ENV_ATTEMPT, ENV_RUN_ID

FORMAT = "SWELL_LOG_FORMAT"  # text or json; by default json in a container of Vertex AI's
LEVEL = "SWELL_LOG_LEVEL"
LABELS = "logging.googleapis.com/labels"
LIMIT = 16_000  # bytes of a line: of a longer one each part would be an entry, and no JSON

# Events that are entries of the log, too, and how severe they are.
SEVERE: Mapping[str, int] = {
    **dict.fromkeys(
        ("leader_changed", "member_joined", "drain", "resumed", "first_step", "finished"),
        logging.INFO,
    ),
    **dict.fromkeys(
        (
            *("loss", "waiting", "held_up", "standstill", "stalled", "straggler", "unfit"),
            *("unreachable", "fault", "worker_replaced", "nonfinite", "telemetry_failed"),
            *("no_group", "gpu_error", "unsaved_files"),
            *("checkpoint_failed", "checkpoint_rejected", "checkpoint_skipped", "rank_failed"),
        ),
        logging.WARNING,
    ),
    **dict.fromkeys(("task_failed", "agent_failed"), logging.ERROR),
}

log = logging.getLogger("swell.events")


class Structured(logging.Formatter):
    """Makes one JSON object of a record.

    Args:
        labels: of every record.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__()
        self._labels = dict(labels)

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        labels = {**self._labels, "swell_logger": record.name, **getattr(record, "labels", {})}
        while True:
            told = {"severity": record.levelname, "message": message, LABELS: labels}
            line = json.dumps(told)  # in ASCII: what cannot be encoded is no error here
            if len(line) <= LIMIT or not message:
                return line
            message = message[: len(message) // 2]


def is_structured(env: Mapping[str, str]) -> bool:
    """Whether what a process logs is read by Cloud Logging."""
    return env.get(FORMAT, "json" if "CLOUD_ML_JOB_ID" in env else "text") == "json"


def configure(env: Mapping[str, str], stream: TextIO, replica: str = "") -> None:
    """Has this process log to a stream, in the form that its environment asks for."""
    handler = logging.StreamHandler(stream)
    if is_structured(env):
        told = {"swell_run": ENV_RUN_ID, "swell_attempt": ENV_ATTEMPT}
        labels = {label: env[name] for label, name in told.items() if name in env}
        handler.setFormatter(
            Structured({**labels, **({"swell_replica": replica} if replica else {})})
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.disabled = not is_structured(env)  # who reads lines has the run's events in words
    logging.basicConfig(level=env.get(LEVEL, "INFO"), handlers=[handler])


def log_event(event: Event) -> None:
    """Logs an event that is worth an entry: its name and its fields as the message, and a label."""
    kind = str(event["event"])
    if (level := SEVERE.get(kind)) is None:
        return
    # Of a traceback what it ends with: who has raised it has printed it, too.
    words = {k: str(v).rstrip().rpartition("\n")[2] for k, v in event.items()}
    told = "; ".join(f"{k}: {v}" for k, v in words.items() if k not in ("event", "time"))
    log.log(level, "%s: %s", kind, told, extra={"labels": {"swell_event": kind}})
