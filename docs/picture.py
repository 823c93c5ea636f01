"""Draws the README's picture from a real run: the demo, launched on this machine.

    python docs/picture.py > docs/run.svg

It is what `swell report` draws of it: the world over time with what happened, and the loss. The run
is a new one each time, so its times are of this machine; the picture takes its colours from the
reader's light or dark mode, and loads nothing.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

from launcher import launch, load_job
from launcher.report import charts
from launcher.report.report import Known, read
from launcher.report.track import thinned

ROOT = Path(__file__).parents[1]
_STYLE = """\
svg { --ink: #1b1f24; --paper: #ffffff; --rule: #8b949e; --blue: #0072b2; color: #1b1f24; }
svg { font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6e9ed; --paper: #14171b; --rule: #79818b; --blue: #4ba3df; color: #e6e9ed; }
}
"""
_BOX = re.compile(r'^<svg aria-hidden="true" viewBox="0 0 ([\d.]+) ([\d.]+)"')


def demo() -> Known:
    """Runs examples/digits.yaml to its end, in a home of its own; returns what is known of it."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["SWELL_HOME"] = home
        with launch(load_job(ROOT / "examples/digits.yaml")) as run:
            outcome = run.wait()
        if outcome.state != "succeeded":
            raise SystemExit(f"the demo has {outcome.state}: {outcome.reason}")
        return read(run.directory, time.time())


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


def main() -> None:
    """Prints the picture."""
    known = demo()
    losses = known.track.curves["loss"]
    print(
        stacked(
            "The demo: workers that train over time, what happened to them, and the loss by step",
            {
                "the world, and what happened to it": charts.timeline(
                    known.clock, known.track.sizes, known.track.marks
                ),
                "the loss": charts.curve("loss", thinned([*losses], [*losses.values()], 120)),
            },
        ),
        end="",
    )
    print(f"steps lost: {known.status['steps_lost']}", file=sys.stderr)


if __name__ == "__main__":
    main()
