"""Events in plain words, for people: one short line for what is worth a line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trainer.rundir.events import Cause, Event


def tell(event: Event) -> str | None:
    """Returns what ``event`` means in plain words, or None when it is not worth a line."""
    teller = _TELLERS.get(event["event"])
    try:
        return None if teller is None else one_line(teller(event))
    except (KeyError, TypeError, ValueError):  # not of the documented form
        return None


def at_clock(unix: float) -> str:
    """Returns the local time of day of ``unix`` seconds."""
    return time.strftime("%H:%M:%S", time.localtime(unix))


def span(seconds: float) -> str:
    """Returns a duration as people read it: 0.4 s, 42 s, 3:07, 1:02:09."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, noun: str) -> str:
    """Returns ``1 worker``, ``3 workers``, ``1,797 samples``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def one_line(text: str, width: int = 200) -> str:
    """Returns ``text`` fit for a terminal's line: no control characters, not too long."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def number(value: float) -> str:
    """Returns a metric's value in few digits."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"


def _why(event: Event) -> str:
    reason = str(event.get("reason", "")).strip().splitlines()
    return f" ({reason[0]})" if reason else ""


def _attempt_started(event: Event) -> str:
    where = event.get("choice") or event["region"]
    return f"attempt {event['attempt']}: CustomJob submitted in {where}"


def _attempt_ended(event: Event) -> str:
    return f"attempt {event['attempt']} ended: {str(event['state']).lower()}{_why(event)}"


def _drain(event: Event) -> str:
    seconds = event.get("deadline_seconds")
    notice = f" in {span(float(seconds))}" if seconds else ""
    return f"{event['member']} will be taken away{notice}; it leaves at the next step"


def _loss(event: Event) -> str:
    return f"{event['member']} is lost{_why(event)}"


def _formed(event: Event) -> str:
    workers = count(int(event["world_size"]), "worker")
    return f"generation {event['generation']} forms: {workers} ({_CAUSES[event['cause']]})"


_CAUSES: dict[Cause, str] = {
    "start": "start",
    "grow": "a machine came",
    "drain": "a machine left with notice",
    "loss": "a machine was lost",
    "leader": "another coordinator leads",
}


def _resumed(event: Event) -> str:
    seconds, lost = event.get("seconds"), int(event.get("lost_steps", 0))
    verb = (
        "training starts" if event["cause"] == "start" and not event["step"] else "training goes on"
    )
    pause = f" after a pause of {span(float(seconds))}" if seconds else ""
    loss = f", {count(lost, 'step')} lost" if lost else ""
    return f"{verb} at step {event['step']}{pause}{loss}"


def _metrics(event: Event) -> str:
    shown = ", ".join(f"{name} {number(float(v))}" for name, v in event["metrics"].items())
    return f"evaluated at step {event['step']}: {shown}"


def _checkpoint(event: Event) -> str:
    return f"checkpoint of step {event['step']} is saved"


def _finished(event: Event) -> str:
    step = event.get("step")
    at = f" at step {step}" if step else ""
    return f"the run {_ENDS[event['state']]}{at}"


_ENDS = {
    "succeeded": "is complete",
    "failed": "failed",
    "cancelled": "was cancelled",
    "limited": "has reached a limit",
}

_TELLERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "attempt_started": _attempt_started,
    "attempt_ended": _attempt_ended,
    "attempt_due": lambda e: (
        f"attempt {e['attempt']} is due in {span(float(e['seconds']))}: {e['choice']}"
    ),
    "attempt_left": lambda e: f"attempt {e['attempt']} is given up for another{_why(e)}",
    "moved": lambda e: (
        f"the run moves to {e['region']}; its run directory does not: checkpoints are "
        "traffic between regions now"
    ),
    "stop_asked": lambda e: f"the run is to save a checkpoint and to end{_why(e)}",
    "stockout": lambda e: f"no capacity in {e['region']}{_why(e)}",
    "leader_changed": lambda e: f"{e['member']} coordinates",
    "member_ready": lambda e: f"{e['member']} is ready",
    "drain": _drain,
    "loss": _loss,
    "generation_formed": _formed,
    "resumed": _resumed,
    "waiting": lambda e: (
        f"waiting for machines: {e['slots']} of at least {count(int(e['min_workers']), 'worker')}"
    ),
    "evaluated": _metrics,
    "checkpoint_committed": _checkpoint,
    "checkpoint_failed": lambda e: (
        f"the checkpoint of step {e['step']} could not be written{_why(e)}; training goes on"
    ),
    "checkpoint_skipped": lambda e: f"step {e['step']} is not saved{_why(e)}",
    "store_unavailable": lambda e: f"the run directory does not answer{_why(e)}; trying again",
    "checkpoint_rejected": lambda e: f"checkpoint of step {e['step']} is unusable{_why(e)}",
    "task_failed": lambda e: f"the task raised in rank {e['rank']} at step {e['step']}",
    "finished": _finished,
    "notification_failed": lambda e: str(e["reason"]),
}
