"""Asking an API again after what is transient: waiting longer each time, but not for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from launcher.api.apierror import ApiError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Backoff:
    """How long to wait between tries.

    Attributes:
        first: seconds after the first failure; each further wait is twice as long.
        longest: no wait is longer, unless the API asks for it.
        limit: seconds after the first try from which on none is begun; 0 means one try.
    """

    first: float = 1.0
    longest: float = 32.0
    limit: float = 120.0

    def delay(self, failures: int, asked: float | None, draw: float) -> float:
        """Returns how many seconds to wait now.

        Args:
            failures: tries so far, from 1.
            asked: what the API asks for; it gets at least that.
            draw: a random number in [0, 1): many clients that failed together must not come
                back together.
        """
        grown = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return max(grown * (0.5 + draw / 2), asked or 0.0)


ONCE = Backoff(limit=0.0)
BRIEF = Backoff(limit=10.0)  # while a person waits for an answer


@dataclass(frozen=True)
class Retries:
    """Sends requests, and sends them again; a clock and its sleep can be passed in."""

    backoff: Backoff = Backoff()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    draw: Callable[[], float] = random.random

    def run(self, send: Callable[[], _T]) -> _T:
        """Returns what ``send`` returns, once it does.

        Raises the last ApiError when it is not transient, or when the next try would begin
        after the limit; an API that asks for more patience than that is not kept waiting for.
        """
        started, failures = self.clock(), 0
        while True:
            try:
                return send()
            except ApiError as error:
                failures += 1
                wait = self.backoff.delay(failures, error.retry_after, self.draw())
                if not error.transient or self.clock() + wait - started > self.backoff.limit:
                    raise
            self.sleep(wait)
