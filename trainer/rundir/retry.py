"""Which failures of a store pass by themselves, and how long to wait for that."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

# 408 request timeout, 429 too many requests, and the server's own trouble.
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
# Transport errors of the clients of object stores, known by module: none of them is imported.
_CLIENTS = ("asyncio.", "aiohttp.", "requests.", "urllib3.", "botocore.", "google.auth.")

log = logging.getLogger("swell.store")


class StoreUnavailable(OSError):
    """The store does not answer, or not now; later it may."""


@dataclass(frozen=True)
class Retry:
    """Waits that double, with jitter, until a time limit. All times are in seconds.

    Attributes:
        first: the first wait.
        longest: no wait is longer.
        limit: after so long no further attempt is made.
    """

    first: float = 0.2
    longest: float = 5.0
    limit: float = 30.0

    def waits(self) -> Iterator[float]:
        """Yields how long to wait before each further attempt, until the waits fill the limit."""
        wait, total = self.first, 0.0
        while total < self.limit:
            # Jitter, so that ranks that failed together do not come back together.
            chosen = min(wait * random.uniform(0.5, 1.5), self.limit - total)
            total += chosen
            yield chosen
            wait = min(2 * wait, self.longest)


NEVER = Retry(limit=0.0)
AGAIN = 5.0  # seconds
START_LIMIT = 600.0  # seconds that an agent waits for its run directory

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
