"""Says what a command waits for on the network, and for how long yet; gives up when that is over.

The clients of Google's APIs and of object stores have limits and retries of their own, which add
up to minutes of silence. Whoever sits before a command hears after seconds what is not answering.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import FrameType
from typing import TypeAlias

from trainer.rundir.usererror import UserError

SAY_AFTER = 5.0  # seconds
LIMIT = 60.0

Watch: TypeAlias = Callable[[str, float], AbstractContextManager[None]]


class Unreachable(UserError, OSError):
    """What has not answered for as long as a person waits."""


class _Over(BaseException):
    """The time is over; no ``except`` of what waits may take it for a failure to try again."""


_waits = False  # whether the main thread is watched already
_watch: ContextVar[Watch] = ContextVar("watch", default=lambda what, limit: nullcontext())


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """In the block, what is reached for in this thread is watched."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def reaching(url: str, limit: float = LIMIT) -> AbstractContextManager[None]:
    """To be held while something on the network is waited for, for so many seconds at the most.

    Raises Unreachable when a person waits, and has waited long enough. Of several, one in the
    other, the outermost counts.
    """
    return _watch.get()(url, limit)


@contextmanager
def impatient(
    url: str,
    limit: float,
    say: Callable[[str], object],
    after: float = SAY_AFTER,
) -> Iterator[None]:
    """A watch for the main thread of a command.

    Args:
        url: what is waited for; a path on this machine answers, or never will.
        limit: seconds after which it is given up.
        say: called from a thread with what to tell, once.
        after: seconds of silence before that.
    """
    global _waits
    if "://" not in url or _waits or threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell() -> None:
        say(f"{url} has not answered for {after:.0f} s; trying for {limit - after:.0f} s more")

    def over(number: int, frame: FrameType | None) -> None:
        raise _Over

    _waits = True
    teller = threading.Timer(after, tell)
    teller.daemon = True
    teller.start()
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    except _Over:
        raise Unreachable(
            "SW2051",
            f"{url} has not answered for {limit:.0f} s; check the address and the network, "
            "then try again",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        teller.cancel()
        _waits = False
