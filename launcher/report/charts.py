"""The pictures of a report: SVG that takes its colours from the page, and no text of the run.

What a run says of itself stands in the page, where it is escaped. Wherever colours tell things
apart, shapes, hatches or dashes do so, too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from launcher.report.track import KINDS, Band, Mark, Rate, spaced, thinned
from launcher.status.accounts import ACCOUNTS, Ledger
from launcher.status.sizes import Size, joined
from launcher.words import LOSSES
from trainer.rundir.usererror import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6  # inches; a picture is as wide as its page
POINTS = 300  # of a curve, and marks of one kind
BARS = 60  # pauses that are drawn: the longest
# Stand-ins for colours that a page has in light and in dark; none of them is used for itself.
INK, PAPER, RULE = "#0a0b0c", "#f0f1f2", "#a0a1a2"
# To be told apart by people who see colours otherwise, and on both grounds (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
)
_OF_PAGE = {
    INK: "var(--ink)",
    PAPER: "var(--paper)",
    RULE: "var(--rule)",
    BLUE: "var(--blue)",
}
_ACCOUNTS = {  # colour, and hatch
    "training": (GREEN, ""),
    "communication": (SKY, "//"),
    "data_wait": (ORANGE, ".."),
    "waiting": ("#b8a100", "--"),
    "starting": (BLUE, "\\\\"),
    "re_forming": (RED, "xx"),
    "checkpoint": (PURPLE, "oo"),
    "repeated": ("#8a3b12", "++"),
    "evaluation": ("#7570b3", "||"),
    "stopped": ("#777777", "**"),
    "absent": (PAPER, "///"),
}
_SHAPES = dict(zip(KINDS, ("X", "v", "|", "s", "o", "P", "."), strict=True))
_COLOURS = dict(zip(KINDS, (RED, ORANGE, BLUE, GREEN, SKY, PURPLE, INK), strict=True))
_UNITS = ((2 * 86400.0, 86400.0, "days"), (2 * 3600.0, 3600.0, "hours"), (120.0, 60.0, "minutes"))


class ReportError(UserError, RuntimeError):
    """A report cannot be made here."""


def require_plots() -> None:
    """Raises ReportError where the library that draws is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ReportError(
            "SW6223",
            f"swell report draws with matplotlib, which cannot be imported ({error}); "
            "pip install 'swell[plots]' installs it",
        ) from None


class Clock:
    """The time axis that pictures of one run share.

    Args:
        start, end: in Unix seconds.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, max(end, start + 1e-3)
        took = self.end - self.start
        self._unit, self._name = next(
            ((unit, name) for least, unit, name in _UNITS if took >= least), (1.0, "seconds")
        )

    def at(self, time: float) -> float:
        """Where a time is on the axis."""
        return (time - self.start) / self._unit

    def label(self, axes: Axes) -> None:
        """Puts it under a picture."""
        axes.set_xlim(0, self.at(self.end))
        axes.set_xlabel(f"{self._name} since the start")


def timeline(clock: Clock, sizes: Sequence[Size], marks: Sequence[Mark]) -> str:
    """Returns how many workers trained when, and under it what happened, in a row by kind."""
    kinds = [kind for kind in KINDS if any(mark.kind == kind for mark in marks)]
    with _drawn("timeline", 2.2 + 0.25 * len(kinds)) as (figure, svg):
        rows = [2.2, 0.25 * max(1, len(kinds))]
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=rows)
        times, workers = [0.0], [0]
        for since, until, count in joined(sizes, 4 * POINTS):
            times += [clock.at(since), clock.at(until)]
            workers += [count, 0]
        above.fill_between([*times, clock.at(clock.end)], [*workers, 0], step="post", color=SKY)
        above.step([*times, clock.at(clock.end)], [*workers, 0], where="post", color=BLUE)
        above.set_ylabel("workers that train")
        above.set_ylim(bottom=0)
        above.yaxis.get_major_locator().set_params(integer=True)
        for row, kind in enumerate(reversed(kinds)):
            told = [mark.time for mark in marks if mark.kind == kind]
            shown = [clock.at(at) for at in spaced(told, clock.start, clock.end, POINTS)]
            below.plot(
                shown, [row] * len(shown), _SHAPES[kind], color=_COLOURS[kind], clip_on=False
            )
        below.set_yticks(range(len(kinds)), [*reversed(kinds)])
        below.set_ylim(-0.6, max(1, len(kinds)) - 0.4)
        below.grid(axis="y", visible=False)
        clock.label(below)
    return svg()


def curve(name: str, bands: Sequence[Band]) -> str:
    """Returns a metric over steps: the mean of neighbours, and from their least to their most.

    Args:
        name: tells this picture's ids from those of others.
        bands: in order of steps.
    """
    with _drawn(name, 2.2) as (figure, svg):
        axes = figure.subplots()
        at = [band.at for band in bands]
        if any(band.least < band.most for band in bands):
            least, most = [band.least for band in bands], [band.most for band in bands]
            axes.fill_between(at, least, most, color=SKY, alpha=0.45, linewidth=0)
        style = "o-" if len(bands) < 20 else "-"
        axes.plot(at, [band.mean for band in bands], style, color=BLUE, markersize=4)
        axes.set_xlabel("step")
    return svg()


def rates(clock: Clock, known: Sequence[Rate]) -> str:
    """Returns how many steps came in a second, and samples, if anybody has said those."""
    samples = [(rate.time, rate.samples) for rate in known if rate.samples is not None]
    with _drawn("rates", 4.2 if samples else 2.2) as (figure, svg):
        found = figure.subplots(2 if samples else 1, 1, sharex=True, squeeze=False)
        shown = [("steps/s", [(rate.time, rate.steps) for rate in known]), ("samples/s", samples)]
        for row, (name, points) in zip(found, shown, strict=False):
            bands = thinned([at for at, _ in points], [rate for _, rate in points], POINTS)
            at = [clock.at(band.at) for band in bands]
            row[0].plot(at, [band.mean for band in bands], ".-", color=BLUE, markersize=4)
            row[0].set_ylabel(name)
            row[0].set_ylim(bottom=0)
        clock.label(found[-1][0])
    return svg()


def ledger(clock: Clock, parts: Sequence[Ledger]) -> str:
    """Returns what VMs did over time: how many of them on average, one account on another."""
    with _drawn("ledger", 4.3) as (figure, svg):
        axes = figure.subplots()
        edges = [clock.at(parts[0].since), *(clock.at(part.until) for part in parts)]
        base = [0.0] * len(parts)
        order = [*_ACCOUNTS]
        for name in sorted(ACCOUNTS, key=order.index):
            each = [part.seconds[name] / max(part.until - part.since, 1e-9) for part in parts]
            if not any(each):
                continue
            top = [below + more for below, more in zip(base, each, strict=True)]
            colour, hatch = _ACCOUNTS[name]
            axes.fill_between(
                edges,
                [*base, base[-1]],
                [*top, top[-1]],
                step="post",
                facecolor=colour,
                hatch=hatch,
                edgecolor=INK,
                linewidth=0.3,
                label=LOSSES[name],
            )
            base = top
        axes.set_ylabel("VMs")
        axes.set_ylim(bottom=0)
        clock.label(axes)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return svg()


def cost(
    clock: Clock, times: Sequence[float], spent: Sequence[float], full: Sequence[float]
) -> str:
    """Returns USD spent until each time, and what the same training costs on demand."""
    with _drawn("cost", 2.6) as (figure, svg):
        axes = figure.subplots()
        at = [clock.at(time) for time in times]
        axes.plot(at, spent, "-", color=BLUE, label="spent")
        axes.plot(at, full, "--", color=RED, label="same training on demand")
        axes.set_ylabel("USD")
        axes.set_ylim(bottom=0)
        clock.label(axes)
        axes.legend(frameon=False, fontsize=9)
    return svg()


def pauses(known: Sequence[Mapping[str, Any]]) -> str:
    """Returns how long the longest pauses were, by the generation that each led to."""
    longest = sorted(known, key=lambda pause: -pause["seconds"])[:BARS]
    shown = sorted(longest, key=lambda pause: int(pause["generation"]))
    with _drawn("pauses", 2.2) as (figure, svg):
        axes = figure.subplots()
        names = [str(pause["generation"]) for pause in shown]
        axes.bar(range(len(shown)), [pause["seconds"] for pause in shown], color=ORANGE)
        every = max(1, len(shown) // 15)
        axes.set_xticks(range(0, len(shown), every), names[::every])
        axes.set_xlabel("generation")
        axes.set_ylabel("seconds of pause")
    return svg()


@contextmanager
def _drawn(name: str, height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """Yields a figure to draw in, and what returns it as SVG afterwards."""
    import matplotlib
    from matplotlib.figure import Figure

    look: Any = {
        "axes.edgecolor": RULE,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": "none",
        "font.size": 10.5,
        "grid.color": RULE,
        "grid.linewidth": 0.4,
        "hatch.color": INK,
        "hatch.linewidth": 0.4,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, lambda: _svg(figure, name, look)


def _svg(figure: Figure, name: str, look: Any) -> str:
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context(look):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids are the page's, where each is there once.
    text = re.sub(r'\b(id="|href="#)|(url\(#)', lambda found: f"{found.group()}{name}-", text)
    for stand_in, colour in _OF_PAGE.items():
        text = text.replace(stand_in, colour)
    return re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg aria-hidden="true" \1>', text)
