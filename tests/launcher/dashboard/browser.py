"""A real browser before a dashboard, and what axe-core says of what it sees.

Pictures of the pages are kept in ``build/screenshots``, for whoever wants to look at them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, sync_playwright

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "build" / "screenshots"
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
PATIENCE = 600_000.0  # milliseconds; only a test that fails waits so long
WIDE, PHONE = (1100, 900), (400, 800)

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no browser: apt-get install chromium-headless-shell"
)


class Shown:
    """A dashboard's address, as somebody has opened it.

    Args:
        page: the browser's.
        url: the address that the command has printed.
        name: of the pictures.

    Attributes:
        errors: what went wrong; no request for news that was broken off as a page was left.
        gone: whether the dashboard need not answer any more.
    """

    def __init__(self, page: Page, url: str, name: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.gone = False
        self._name = name
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", self._failed)

    def _failed(self, request: Request) -> None:
        known = ("ERR_ABORTED", *(["ERR_CONNECTION"] if self.gone else []))
        if not any(one in str(request.failure) for one in known):
            self.errors.append(f"{request.url}: {request.failure}")

    def go(self, path: str = "") -> None:
        """Opens a page of it."""
        self.page.goto(f"{self.url}{path}")

    def wait(self, text: str) -> None:
        """Waits until a text is there."""
        self.page.get_by_text(text).first.wait_for(state="attached")

    @property
    def focused(self) -> str:
        """The text of what has the focus."""
        return str(self.page.evaluate("document.activeElement.textContent"))

    def press(self, key: str) -> None:
        """Presses a key."""
        self.page.keyboard.press(key)

    def tab_to(self, text: str, most: int = 60) -> None:
        """Goes with the tabulator to what has a text."""
        for _ in range(most):
            self.press("Tab")
            if self.focused == text:
                return
        raise AssertionError(f"no key leads to {text!r}")

    def check(self, name: str) -> None:
        """Keeps a picture, and raises unless axe-core has nothing to say, and nothing is cut."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(PICTURES / f"{self._name}-{name}.png"), full_page=True)
        results = Axe().run(self.page)
        assert results.violations_count == 0, results.generate_report()
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} px wider than the window"
        assert self.errors == []


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def opened(
    found: Browser, url: str, name: str, size: tuple[int, int] = WIDE, dark: bool = False
) -> Iterator[Shown]:
    """A window of the browser."""
    context = found.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    try:
        yield Shown(context.new_page(), url, name)
    finally:
        context.close()


@contextmanager
def dashboard(home: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command, as somebody starts it. Yields the address that it prints, and its process."""
    environment = {**os.environ, "SWELL_HOME": str(home), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "dashboard", *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout and process.stderr
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        yield url, process
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(errors.splitlines()) == 1, errors
