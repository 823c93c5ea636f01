"""Which failures of a store pass by themselves, and how long to wait before trying again."""

from __future__ import annotations

import errno
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

# 408 request timeout, 429 too many requests, and the server's own trouble.
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
# Transport errors of the clients of object stores, known by module: none of them is imported.
_CLIENTS = ("asyncio.", "aiohttp.", "requests.", "urllib3.", "botocore.", "google.auth.")

log = logging.getLogger("swell.store")

UNREACHABLE = "SW4016"  # the message about a run directory that cannot be read or written


class StoreUnavailable(OSError):
    """The store does not answer, or not now; later it may."""


@dataclass(frozen=True)
class Backoff:
    """Waits between tries: each twice as long as the last. All times are in seconds.

    Attributes:
        first: the first wait.
        longest: no wait is longer.
        limit: for how long to try again; 0 means one try.
        jitter: the share of each wait that is left to chance, so that many who failed together
            do not come back together.
    """

    first: float = 1.0
    longest: float = 32.0
    limit: float = math.inf
    jitter: float = 0.5

    def wait(self, failures: int, draw: float) -> float:
        """Returns how long to wait after a failure.

        Args:
            failures: in a row so far, from 1.
            draw: a random number in [0, 1).
        """
        grown = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return grown * (1 - self.jitter + self.jitter * draw)

    def waits(self, draw: Callable[[], float] = random.random) -> Iterator[float]:
        """Yields how long to wait before each further try, until the waits fill the limit."""
        left = self.limit
        for failures in count(1):
            if left <= 0:
                return
            wait = min(self.wait(failures, draw()), left)
            left -= wait
            yield wait


ONCE = Backoff(limit=0.0)
PATIENT = Backoff(first=0.2, longest=5.0, limit=30.0)  # while nobody waits for an answer
AGAIN = 5.0  # seconds; always the same: nobody else is kept waiting
START_LIMIT = 600.0  # seconds that an agent waits for its run directory

# What a disk refuses until somebody has made room, or mounted it anew: nothing that is wrong here.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSING = NO_ROOM | {errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}

T = TypeVar("T")


def patiently(
    find: Callable[[], T],
    report: Callable[..., None] = lambda event, **fields: None,
    *,
    limit: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Returns what ``find`` does, once the store answers: without it nothing can begin.

    Args:
        find: raises StoreUnavailable while the store is away.
        report: called as ``report("store_unavailable", reason=…, seconds=…)`` each time.
        limit: seconds after which StoreUnavailable is raised all the same.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """
    began = clock()
    while True:
        try:
            return find()
        except StoreUnavailable as error:
            passed = clock() - began
            if passed + AGAIN > limit:
                raise
            log.warning("the store does not answer; trying again every %g s: %s", AGAIN, error)
            report("store_unavailable", reason=str(error), seconds=round(passed, 1))
        sleep(AGAIN)


def may_pass(error: OSError) -> bool:
    """Whether a store may take later what it has refused: it is away, or a disk is full."""
    return isinstance(error, StoreUnavailable) or error.errno in _PASSING


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed later."""
    status = http_status(error)
    if status is not None:
        return status in TRANSIENT_STATUS
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    kinds = [f"{kind.__module__}." for kind in type(error).__mro__]
    return any(kind.startswith(_CLIENTS) for kind in kinds)


def http_status(error: BaseException) -> int | None:
    """What an object store answered, whichever client tells it; None if it did not answer.

    gcsfs and aiohttp have it as ``code`` or ``status``; botocore in a ``response``, and s3fs has
    botocore's error as its cause.
    """
    status = getattr(error, "code", None) or getattr(error, "status", None)
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if status is None and isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int | str) and str(status).isdecimal():
        return int(status)
    return None
