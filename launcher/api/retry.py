"""Asks an API again after a transient error: waiting longer each time, but not for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from launcher.api.apierror import ApiError
from trainer.rundir.retry import Backoff

_T = TypeVar("_T")

USUAL = Backoff(limit=120.0)
BRIEF = Backoff(limit=10.0)  # while a person waits for an answer


@dataclass(frozen=True)
class Retries:
    """Sends a request until the API takes it.

    Attributes:
        backoff: the waits between tries; its limit counts from the first try on.
        clock: returns seconds.
        sleep: waits for so many seconds.
        draw: returns a random number in [0, 1).
    """

    backoff: Backoff = USUAL
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    draw: Callable[[], float] = random.random

    def run(self, send: Callable[[], _T]) -> _T:
        """Returns what ``send`` returns, once it does.

        Raises the last ApiError when it is not transient, or when the next try would begin
        after the limit; an API that asks for more patience than that is given up at once.
        """
        started, failures = self.clock(), 0
        while True:
            try:
                return send()
            except ApiError as error:
                failures += 1
                wait = self.backoff.wait(failures, self.draw())
                wait = max(wait, error.retry_after or 0.0)  # the API gets at least what it asks for
                if not error.transient or self.clock() + wait - started > self.backoff.limit:
                    raise
            self.sleep(wait)
