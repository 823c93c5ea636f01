"""The states of a run: the colour of each, the words for how it ended, and the exit codes."""

from __future__ import annotations

from typing import Literal, NamedTuple

# What commands exit with.
OK, FAILED, BAD_INPUT, CANCELLED, LIMITED = range(5)

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled", "limited"]


class StateInfo(NamedTuple):
    """What goes with a state.

    Attributes:
        colour: what a terminal shows it in.
        ending: what a run that ended so did, to follow "the run"; empty while a run goes on.
        exit_code: of the command that followed a run to this end.
    """

    colour: str
    ending: str = ""
    exit_code: int = FAILED


STATES: dict[str, StateInfo] = {
    "queued": StateInfo("cyan"),  # has no machines yet, or is between two attempts
    "running": StateInfo("cyan"),
    "waiting": StateInfo("cyan"),  # has too few machines left to train
    "succeeded": StateInfo("green", "is complete", OK),
    "failed": StateInfo("red", "has failed", FAILED),
    "cancelled": StateInfo("yellow", "was cancelled", CANCELLED),
    "limited": StateInfo("yellow", "has reached a limit", LIMITED),
}
_UNKNOWN = StateInfo("")


def info_of(state: str) -> StateInfo:
    """Returns what goes with ``state``, which a newer version may have written: then very little.

    A run directory is shown whoever wrote it: no state is an error here.
    """
    return STATES.get(state, _UNKNOWN)
