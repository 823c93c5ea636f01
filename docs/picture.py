"""Makes the README's pictures from a real run: the demo, launched on this machine.

    python docs/picture.py docs

``run.svg`` is what `swell report` draws of it: the world over time with what happened, and the
loss. ``watch.svg`` is what `swell watch` shows of it after two thirds of its time, and
``dashboard.png`` its page in `swell dashboard`, by a Chromium. The run is a new one each time, so
its times are of this machine; the first picture takes its colours from the reader's light or dark
mode, and both SVGs load nothing.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console

from launcher import launch, load_job
from launcher.report import charts
from launcher.report.report import Known, read
from launcher.report.track import thinned
from launcher.views.live import Scene
from launcher.views.screens import Screens
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 92, 24  # of the terminal
SHARE = 0.66  # of the run's time, when it is looked at
_STYLE = """\
svg { --ink: #1b1f24; --paper: #ffffff; --rule: #8b949e; --blue: #0072b2; color: #1b1f24; }
svg { font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6e9ed; --paper: #14171b; --rule: #79818b; --blue: #4ba3df; color: #e6e9ed; }
}
"""
_BOX = re.compile(r'^<svg aria-hidden="true" viewBox="0 0 ([\d.]+) ([\d.]+)"')


_FONT = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # rich would have it loaded


def demo() -> RunDirectory:
    """Runs examples/digits.yaml to its end; returns its directory."""
    with launch(load_job(ROOT / "examples/digits.yaml")) as run:
        outcome = run.wait()
    if outcome.state != "succeeded":
        raise SystemExit(f"the demo has {outcome.state}: {outcome.reason}")
    return run.directory


def stacked(title: str, pictures: dict[str, str]) -> str:
    """Returns one SVG of several, one below the other, each under its name."""
    width, at, inside = 0.0, 0.0, []
    for name, picture in pictures.items():
        inside.append(f'<text x="4" y="{at + 14:g}" font-size="11" fill="var(--ink)">{name}</text>')
        at += 20
        found = _BOX.match(picture)
        assert found, picture[:80]
        wide, high = float(found[1]), float(found[2])
        head = f'<svg x="0" y="{at:g}" width="{wide:g}" height="{high:g}" viewBox="0 0 {wide:g}'
        inside.append(_BOX.sub(f'{head} {high:g}"', picture))
        width, at = max(width, wide), at + high
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {at:g}" role="img">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n{''.join(inside)}</svg>\n"
    )


def report(known: Known) -> str:
    """Returns the pictures of a report that say most, as one SVG."""
    losses = known.track.curves["loss"]
    return stacked(
        "The demo: workers that train over time, what happened to them, and the loss by step",
        {
            "the world, and what happened to it": charts.timeline(
                known.clock, known.track.sizes, known.track.marks
            ),
            "the loss": charts.curve("loss", thinned([*losses], [*losses.values()], 120)),
        },
    )


def watch(directory: RunDirectory) -> str:
    """Returns what a terminal shows of a run while it goes on, as SVG."""
    job = load_job(ROOT / "examples/digits.yaml")
    events = sorted(read_events(directory), key=lambda one: float(one["time"]))
    begun, ended = events[0]["time"], events[-1]["time"]
    now = begun + SHARE * (ended - begun)
    scene = Scene("digits", job.replicas(), begun)
    scene.add([one for one in events if one["time"] <= now])
    scene.state = "running"
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO())
    console.print(Screens(keys=True).draw(scene, now, WIDTH, HEIGHT))
    return _FONT.sub("", console.export_svg(title="swell watch digits"))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a dashboard of the runs in a folder."""
    command = [sys.executable, "-m", "launcher.cli", "dashboard", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = iter(process.stdout.readline, "")
        url = next(found[0] for line in said if (found := re.search(r"http://\S+", line)))
        try:
            yield url
        finally:
            process.send_signal(signal.SIGINT)


def dashboard(directory: RunDirectory, picture: Path) -> None:
    """Writes the picture of a run's page."""
    browser = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if browser is None:
        raise SystemExit("there is no Chromium: apt-get install chromium-headless-shell")
    runs = Path(directory.url).parent
    with served(runs) as url, sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = shown.new_page(viewport={"width": 1100, "height": 760})
        page.goto(url)
        page.get_by_role("link", name=Path(directory.url).name).first.click()
        page.locator("svg").first.wait_for()
        page.wait_for_load_state("load")
        page.screenshot(path=str(picture))
        shown.close()


def main(folder: Path) -> None:
    """Writes the pictures into a folder."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["SWELL_HOME"] = home
        directory = demo()
        known = read(directory, time.time())
        (folder / "run.svg").write_text(report(known))
        (folder / "watch.svg").write_text(watch(directory))
        dashboard(directory, folder / "dashboard.png")
    print(f"steps lost: {known.status['steps_lost']}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
