"""The leader compacts the run's events: it is one at a time, as a rule, and trains nothing itself.

In a thread of its own: what waits for the store here keeps no renewal of the lease waiting, and
nobody waits for it when the leader goes.
"""

from __future__ import annotations

import logging
import threading

from trainer.rundir.compaction import Compaction
from trainer.rundir.directory import RunDirectory

EVERY = 15.0  # seconds from one round to the next; a reader that looks as often reads batches alone

log = logging.getLogger("swell.coordinator")


class Compactor:
    """Compacts from the moment it is made, until it is stopped.

    Args:
        run_dir: whose events.
        every: seconds between rounds.
    """

    def __init__(self, run_dir: RunDirectory, every: float = EVERY) -> None:
        self._over = threading.Event()
        self._every = every
        self._compaction = Compaction(run_dir, self._over.is_set)
        threading.Thread(target=self._work, name="swell-compactor", daemon=True).start()

    def stop(self) -> None:
        """Begins no further operation. Does not wait for the one that it is at."""
        self._over.set()

    def _work(self) -> None:
        more = False
        while more or not self._over.wait(self._every):
            try:
                more = self._compaction.round()
            except OSError as error:  # the next round may do
                more = False
                log.info("events are not compacted as they should be: %s", error)
            except ValueError as error:
                log.warning("events are not compacted any more, and readers become slow: %s", error)
                return
