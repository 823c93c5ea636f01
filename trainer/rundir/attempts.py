"""Whether an attempt is over, as its record in the run directory has it.

The launcher writes the records (launcher.supervision.attempt); the trainer asks this of them.
"""

from __future__ import annotations

from contextlib import suppress

from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ATTEMPTS

REFUSED = "REFUSED"  # the API did not take the request, or it was never sent
LOST = "LOST"  # the API no longer knows the CustomJob, or no longer answers
ENDED = frozenset(
    {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED", REFUSED, LOST}
)


def record_name(number: int) -> str:
    """Returns the name of an attempt's record in the run directory."""
    return f"{ATTEMPTS}/{number:04d}.json"


def given_up(run_dir: RunDirectory, number: int) -> bool:
    """Whether nothing of an attempt belongs to the run any more.

    A run without a launcher has no records; a damaged one says nothing. Raises OSError when the
    store does not say.
    """
    with suppress(FileNotFoundError, ValueError):
        record = run_dir.read_json(record_name(number))
        return bool(record.get("left")) or record.get("state") in ENDED
    return False
