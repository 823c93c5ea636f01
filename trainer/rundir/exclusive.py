"""Exclusive create: the one compare-and-swap that Swell needs, for any store.

A store may create a file and lose the answer; its client then asks again and is told that
the file exists. So the creator writes an id of its own into the file, and whoever is told
"it exists" reads it back: if the id is its own, it has won.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainer.rundir.numbers import dumped
from trainer.rundir.retry import Backoff, StoreUnavailable

if TYPE_CHECKING:
    from trainer.rundir.store import Store

OWNER = "owner"
LIMIT = 8 * 2**20  # bytes


def create_exclusive(
    store: Store,
    name: str,
    content: dict[str, Any],
    *,
    retry: Backoff | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Writes ``content`` as JSON to ``name`` unless that exists, with an ``owner`` of its own.

    Returns whether this call created it: of any number of callers exactly one is told so.
    Raises OSError when the store does not say; the file may exist then, and be this call's.
    """
    data = encode({**content, OWNER: secrets.token_hex(8)})
    waits = (retry or store.retry).waits()
    while True:
        try:
            if store.create(name, data):
                return True
            unknown: OSError | None = None
        except OSError as error:
            unknown = error
        try:
            return store.read(name, LIMIT) == data
        except FileNotFoundError:
            if unknown is None:
                return False  # somebody's, and gone since
        except ValueError:  # larger than anything that is written here
            return False
        wait = next(waits, None)
        if wait is None or not isinstance(unknown, StoreUnavailable):
            raise unknown
        sleep(wait)


def encode(value: dict[str, Any]) -> bytes:
    """JSON as Swell writes it: for programs, and for people who look."""
    return (dumped(value, indent=1, sort_keys=True) + "\n").encode()
