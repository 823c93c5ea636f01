"""Parts of a page are made while somebody looks, once for all who do, and errors are part of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from launcher.dashboard import live as module
from launcher.dashboard.live import Live, Publish
from trainer.rundir.usererror import UserError


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))
    for thread in threading.enumerate():
        if thread.name == "swell-dashboard":
            thread.join()


class Source:
    """Makes one part, and says how often."""

    def __init__(self) -> None:
        self.text, self.made, self.error = "a", 0, None
        self.go = threading.Event()
        self.go.set()

    def __call__(self, publish: Publish) -> None:
        self.made += 1
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        publish({"one": self.text, "two": "same"})

    error: Exception | None


def test_who_opens_the_page_has_its_parts() -> None:
    async def test() -> None:
        parts = await Live(0.01, Source()).parts(60)
        assert (parts["one"], parts["two"]) == ("a", "same") and "trouble" not in parts
        assert parts["asof"].startswith("Read at ")

    run(test)


def test_nobody_waits_for_what_takes_long() -> None:
    async def test() -> None:
        source = Source()
        source.go.clear()
        live = Live(0.01, source)
        assert await live.parts(0.01) == {}
        source.go.set()
        assert (await live.parts(60))["one"] == "a"

    run(test)


def test_news_are_what_has_changed() -> None:
    async def test() -> None:
        source = Source()
        live = Live(0.01, source)
        await live.parts(60)
        changes = live.changes(live.version)
        told: dict[str, str] = {}
        source.text = "b"
        while "one" not in told:
            version, told = await anext(changes)
        assert told["one"] == "b" and "two" not in told
        fresh = live.changes(0)
        assert (await anext(fresh))[1].keys() >= {"one", "two"}, "whoever has nothing gets all"
        assert (await anext(live.changes(version)))[0] >= version

    run(test)


def test_who_was_told_by_one_that_is_gone_is_told_all() -> None:
    async def test() -> None:
        source = Source()
        gone = Live(0.0, source)
        for text in "bcdefg":
            source.text = text
            while (await gone.parts(60))["one"] != text:
                await asyncio.sleep(0.001)
        live = Live(3600.0, source)
        await live.parts(60)
        assert live.version > gone.version
        assert (await anext(live.changes(gone.version)))[1].keys() >= {"one", "two"}

    run(test)


def test_who_looks_shares_the_work_and_nobody_looking_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LINGER", 0.0)

    async def test() -> None:
        source = Source()
        source.go.clear()
        live = Live(0.0, source)
        waiting = [asyncio.create_task(live.parts(60)) for _ in range(5)]
        await asyncio.sleep(0)
        source.go.set()
        await asyncio.gather(*waiting)
        assert source.made <= 2
        while not live.idle:
            await asyncio.sleep(0.001)
        made = source.made
        await asyncio.sleep(0.05)
        assert source.made == made

    run(test)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("SW9999", "it is <gone>"), "it is &lt;gone&gt; [SW9999]"),
        (OSError("no network"), "no network [SW2006]"),
        (KeyError("x"), "KeyError(&#x27;x&#x27;) [SW6293]"),
    ],
)
def test_an_error_is_shown_beside_what_was_known_and_goes_when_it_is_over(
    error: Exception, told: str
) -> None:
    async def test() -> None:
        source = Source()
        live = Live(0.0, source)
        await live.parts(60)
        source.error = error
        while not (parts := await live.parts(60)).get("trouble"):
            await asyncio.sleep(0.001)
        assert told in parts["trouble"] and 'role="alert"' in parts["trouble"]
        assert parts["one"] == "a"
        source.error = None
        while (await live.parts(60))["trouble"]:
            await asyncio.sleep(0.001)

    run(test)


def test_who_waits_for_news_is_let_go_when_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 3600.0)

    async def test() -> None:
        live = Live(3600.0, Source())
        await live.parts(60)
        told: list[dict[str, str]] = []

        async def wait() -> None:
            async for _, news in live.changes(0):
                told.append(news)

        waiting = asyncio.create_task(wait())
        while not told:
            await asyncio.sleep(0)
        assert not waiting.done(), "there is no news, and no heartbeat for an hour"
        live.close()
        await waiting
        assert told[0].keys() >= {"one", "two"} and told[1:] == [{}]

    run(test)
