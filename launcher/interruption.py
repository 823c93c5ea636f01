"""What Ctrl-C must not come between: to start something, and to know of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """In the block, which must be short, requests to stop wait for its end.

    Handlers run in the main thread alone; elsewhere there is nothing to wait for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append((number, frame)))
        for number in _STOPPING
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late, frame in came:
            handler = before[signal.Signals(late)]
            if callable(handler):
                handler(late, frame)
            elif handler == signal.SIG_DFL:
                signal.raise_signal(late)
