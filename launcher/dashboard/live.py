"""Something that a browser shows as it goes on: parts of a page, made anew while somebody looks.

Whoever opens the page gets the parts as they are known by then, at once; what takes longer follows
as it is made. Several who look share the work, and nobody looking is no work.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias, TypeVar

from launcher import home
from launcher.report import page
from launcher.words import at_clock
from trainer.rundir.usererror import UserError, shown

UNSHOWN = "SW6293"  # the message about what could not be shown, and was not expected
LINGER = 20.0  # seconds in which it is made anew after the last one has looked
SHARE = 4.0  # it rests so many times as long as this process has computed meanwhile
HEARTBEAT = 10.0  # seconds after which a connection without news says that it lives

T = TypeVar("T")
Publish: TypeAlias = Callable[[dict[str, str]], None]
Make: TypeAlias = Callable[[Publish], None]


async def in_thread(work: Callable[[], T]) -> T:
    """Returns what ``work`` does, in a thread that keeps nobody from ending this process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result: Any = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name="swell-dashboard", daemon=True).start()
    return await done


class Live:
    """Parts of a page, by the ids of their elements, as HTML.

    Args:
        pause: seconds between two looks, at least.
        makes: each makes some of the parts, in a thread, and hands them on by what it is given, as
            it has them. None waits for another.

    Attributes:
        version: of the newest part. It begins with the clock's milliseconds, so that whoever was
            told by another of its kind, which is gone, knows none of its parts.
        used: when somebody has looked last, by the monotonic clock.
    """

    def __init__(self, pause: float, *makes: Make) -> None:
        self._pause = pause
        self._makes = makes
        self._troubles = [""] * len(makes)
        self._parts: dict[str, tuple[int, str]] = {}  # with the version of the last change
        self.version = time.monotonic_ns() // 1_000_000
        self._made = asyncio.Event()  # for the first time since somebody looks
        self._changed = asyncio.Event()
        self._looking: set[asyncio.Task[None]] = set()
        self._began = -math.inf
        self._watchers = 0
        self._closed = False
        self.used = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether nobody looks, and nothing is made for anybody."""
        return not self._looking

    async def parts(self, limit: float) -> dict[str, str]:
        """Returns the parts; waits for new ones until so many seconds after somebody has begun
        to look."""
        self._look()
        left = self._began + limit - time.monotonic()
        if left > 0 and not self._made.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._made.wait(), left)
        return {name: html for name, (_, html) in self._parts.items()}

    async def changes(self, since: int) -> AsyncIterator[tuple[int, dict[str, str]]]:
        """Yields versions, with the parts that are new in each; nothing is new now and then.

        Args:
            since: the version that is known.
        """
        self._watchers += 1
        try:
            while True:
                self._look()
                news = {name: html for name, (at, html) in self._parts.items() if at > since}
                since = self.version
                yield since, news
                if self._closed:
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), HEARTBEAT)
        finally:
            self._watchers -= 1
            self.used = time.monotonic()

    def close(self) -> None:
        """Ends what waits for changes."""
        self._closed = True
        self._changed.set()

    def _look(self) -> None:
        self.used = time.monotonic()
        if not self._looking:
            self._made.clear()
            self._began = time.monotonic()
            for place in range(len(self._makes)):
                task = asyncio.create_task(self._look_on(place))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)

    async def _look_on(self, place: int) -> None:
        while True:
            began = time.process_time()  # to wait for a network is no work
            await self._once(place)
            if place == 0:
                self._made.set()
            if not self._watchers and time.monotonic() - self.used >= LINGER:
                return
            await asyncio.sleep(max(self._pause, SHARE * (time.process_time() - began)))

    async def _once(self, place: int) -> None:
        loop = asyncio.get_running_loop()

        def publish(parts: dict[str, str]) -> None:
            asof = f"Read at {at_clock(time.time())}."
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._take, parts | {"asof": asof})

        try:
            await in_thread(lambda: self._makes[place](publish))
            self._troubles[place] = ""
        except Exception as error:  # whatever it is, who looks is told; else all would stand still
            self._troubles[place] = trouble(error)
        self._take({"trouble": "".join(dict.fromkeys(self._troubles))})

    def _take(self, parts: dict[str, str]) -> None:
        known = self._parts
        new = {name: html for name, html in parts.items() if known.get(name, (0, ""))[1] != html}
        if not new:
            return
        self.version += 1
        known.update({name: (self.version, html) for name, html in new.items()})
        self._changed.set()
        self._changed = asyncio.Event()


def trouble(error: Exception) -> str:
    """Returns what went wrong as HTML: what is shown beside it is what was known before."""
    expected = isinstance(error, UserError | OSError | ValueError | ImportError)
    text = shown(error, home.UNREADABLE) if expected else f"{error!r} [{UNSHOWN}]"
    lines = [f"<p>{page.text_of(line, 1000)}</p>" for line in text.splitlines()[:20]]
    return f'<div role="alert" class="alert">{"".join(lines)}</div>'
