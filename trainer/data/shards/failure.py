"""What is wrong with shards, for the person who meets it.

Most of it is an error of the sample that could not be read. What training gets over is a line in
the log, once for each kind in each process.
"""

from __future__ import annotations

import logging
from typing import Any

from trainer.rundir.usererror import Message, UserError

NO_SHARDS = "SW5174"  # there is no index, or none that can be read
UNREADABLE = "SW5176"  # a shard is missing, or cannot be read
CHANGED = "SW5177"  # a shard is not the one that the index has
NO_CACHE = "SW5179"  # the cache cannot be as it was asked for

log = logging.getLogger("swell.data")


class ShardError(UserError, RuntimeError):
    """Shards that cannot be read, or written; says which, and what to do."""

    def __reduce__(self) -> tuple[Any, ...]:  # it travels from a loader
        return type(self), (self.id, str(self))


class Notices:
    """Lines that are said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, id: str, text: str) -> None:
        """Says it, unless something of this id was said already."""
        if id not in self._said:
            self._said.add(id)
            log.warning("%s", Message(id, text))
