"""Who looks after a run, for people and programs, as its attendants say (see ``attendance``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.supervision.attendance import Attendant, who_is_here
from launcher.supervision.controllers import ControllerRecord
from launcher.words import at_clock, span
from trainer.rundir.usererror import Message

NOBODY = "SW2037"  # the message about a run that nobody looks after
UNSEEN = "SW2141"  # the message about what may outlive its run


def attended_by(attendants: Mapping[int, Attendant], now: float) -> list[dict[str, Any]] | None:
    """Returns who looks after a run that goes on.

    Args:
        attendants: all that there are and were, by number.
        now: Unix seconds.

    Returns ``{"who", "controller", "since", "seen"}`` for each: user@host; which of the run's
    controllers, null for a launch; since when, and when it last said so, in Unix seconds. None
    where nobody has ever said anything: the run is an older version's, or not begun.
    """
    if not attendants:
        return None
    return [_shown(it) for it in who_is_here(attendants, now)]


def _shown(it: Attendant) -> dict[str, Any]:
    named = it.controller or None
    return {"who": it.who, "controller": named, "since": it.since, "seen": it.seen}


def unattended_since(attendants: Mapping[int, Attendant], now: float) -> str | None:
    """Returns a line about a run that goes on, and that nobody looks after any more; else None."""
    if attended_by(attendants, now) != []:
        return None
    last = max(attendants.values(), key=lambda it: it.seen)
    what = f"nobody looks after it: {name_of(_shown(last))} was last heard of "
    what += f"{span(max(0.0, now - last.seen))} ago"
    return str(Message(NOBODY, f"{what}; swell attach goes on with it"))


def unseen_end(
    live: Sequence[Mapping[str, Any]],
    controllers: Sequence[ControllerRecord],
    attendants: Mapping[int, Attendant],
    now: float,
) -> list[str]:
    """Returns a line about a run that has ended, and what of it may still cost money, if anything.

    Args:
        live: its attempts whose end is not on record.
        controllers: all of them.
        attendants: as in ``attended_by``.
        now: Unix seconds.
    """
    names = [f"attempt {it['attempt']}" for it in live]
    names += [f"controller {it.number}" for it in controllers if not it.over]
    if not names or who_is_here(attendants, now):  # who is there sees to it
        return []
    said = f"the run has ended, and nobody has seen whether {' and '.join(names)} did"
    return [str(Message(UNSEEN, f"{said}; swell attach looks, and cancels what goes on"))]


def name_of(attended: Mapping[str, Any]) -> str:
    """Returns who that is, in words."""
    number = attended["controller"]
    return f"controller {number}" if number else str(attended["who"])


def in_words(attended: Sequence[Mapping[str, Any]] | None) -> str:
    """Returns who looks after a run, and since when; empty where that is not known."""
    if attended is None:
        return ""
    names = (f"{name_of(it)}, since {at_clock(it['since'])}" for it in attended)
    return "; ".join(names) or "nobody"


def controllers_shown(controllers: Sequence[ControllerRecord]) -> list[dict[str, Any]]:
    """Returns the run's controllers as ``swell status --json`` has them."""
    return [it.to_json() for it in controllers]
