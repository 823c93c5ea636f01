"""Whether an attempt is over, as its record in the run directory has it.

The launcher writes the records (launcher.supervision.attempt); the trainer asks this of them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ATTEMPTS

REFUSED = "REFUSED"  # the API did not take the request, or it was never sent
LOST = "LOST"  # the API no longer knows the CustomJob, or no longer answers
REPLACED = "replaced"  # the kind of one that is not wanted any more
ASK_AGAIN = 1.0  # seconds for which an answer counts
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


def alone(run_dir: RunDirectory, number: int) -> bool:
    """Whether the run goes on without all attempts on record but one. Raises OSError as above."""
    names = [name for name in run_dir.store.names(ATTEMPTS) if name != f"{number:04d}.json"]
    numbers = [int(name[:-5]) for name in names if name[:-5].isdecimal()]
    return all(given_up(run_dir, one) for one in numbers)


class GivenUp:
    """Asks which attempts a run goes on without; of many that want to know, one asks.

    Args:
        run_dir: the run.
    """

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir
        self._known: set[int] = set()  # none comes back
        self._asked: dict[int, tuple[float, asyncio.Task[None]]] = {}  # when, by attempt

    async def includes(self, attempt: int) -> bool:
        """Whether an attempt was given up; while the store does not say, it was not."""
        if attempt not in self._known:
            now = time.monotonic()
            asked_at, asking = self._asked.get(attempt, (0.0, None))
            if asking is None or (asking.done() and now - asked_at >= ASK_AGAIN):
                asking = asyncio.ensure_future(self._ask(attempt))
                self._asked[attempt] = now, asking
            await asyncio.shield(asking)  # whoever asks may be cancelled, and others wait, too
        return attempt in self._known

    async def _ask(self, attempt: int) -> None:
        with suppress(OSError):
            if await asyncio.to_thread(given_up, self._run_dir, attempt):
                self._known.add(attempt)
