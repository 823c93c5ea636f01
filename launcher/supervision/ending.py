"""How a run ends: once, by whoever says so first; written before anybody is told.

``outcome.json`` counts, and is created exclusively. What follows of it (agents that exit,
CustomJobs that are cancelled, a webhook) is done by those who read it, so it does not matter who
wrote it, or whether that one lives on.
"""

from __future__ import annotations

from contextlib import suppress

from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import OutcomeState


def end_run(run_dir: RunDirectory, events: EventWriter, state: OutcomeState, reason: str) -> bool:
    """Ends the run unless it has ended. Returns whether this call did it.

    Args:
        run_dir: the run.
        events: where it is told.
        state: how it ended.
        reason: why, for people.
    """
    if not run_dir.end(state, reason):
        return False
    events.emit("finished", state=state, reason=reason)
    with suppress(OSError):  # it is on record
        events.flush()
    return True
