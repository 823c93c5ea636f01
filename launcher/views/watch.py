"""What ``swell watch`` shows beside the launch's own view: a run at a glance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from launcher.run_states import info_of
from launcher.status.ledger import axis_of
from launcher.status.sizes import Size, means, sizes_of
from launcher.views.live import LEDGER_EVERY, SIGNS, Scene, render
from launcher.words import count, one_line, output_in_words, saving_in_words, span, usd_in_words

LABEL = 12  # columns before a row
CHROME = 22  # lines that everything but the blocks may take
_BARS = " ▁▂▃▄▅▆▇█"


class Panorama:
    """The view of a run, as large as a terminal."""

    def __init__(self) -> None:
        self._sizes: tuple[float, list[Size]] = (-math.inf, [])  # when, and what

    def draw(self, scene: Scene, now: float, width: int, height: int) -> RenderableType:
        """Returns it.

        Args:
            scene: the run.
            now: Unix seconds; a run that is over is shown as it was at its end.
            width, height: columns and lines.
        """
        if info_of(scene.state).ending:
            now = (scene.history.ended or scene.history.newest).time
        if not self._sizes[1] or abs(now - self._sizes[0]) >= LEDGER_EVERY:
            self._sizes = now, list(sizes_of(scene.history, axis_of(scene.history)))
        rows = _rows(scene, now, width - LABEL, height, self._sizes[1])
        return render(scene, now, width, rows)


def _rows(
    scene: Scene, now: float, width: int, height: int, sizes: list[Size]
) -> Iterator[tuple[str, Text]]:
    if ledger := scene.ledger(now):
        spent = ledger["spent"]
        said = "not known: a machine has no price" if spent is None else usd_in_words(spent)
        if saving := saving_in_words(spent, ledger["saving"]):
            said += f", {saving} than the same training on demand"
        yield "cost", Text(said, overflow="ellipsis", no_wrap=True)
    yield "saved", _saved(scene, now)
    if sizes:
        most = max(size.workers for size in sizes)
        label = f"  0 to {most:,} workers in {span(max(0.0, now - scene.started))}"
        bars = means(sizes, scene.started, now, max(8, width - len(label)))
        yield "workers", Text(graph(bars, most) + label, no_wrap=True)
    if len(scene.replicas) > 16 and (blocks := _blocks(scene, width, height - CHROME)):
        yield "", blocks


def _saved(scene: Scene, now: float) -> Text:
    newest, output = scene.history.checkpoint(now), scene.history.output(now)
    if newest["step"] is None and output is not None:
        return Text(f"output {output_in_words(output)}", overflow="ellipsis", no_wrap=True)
    if newest["step"] is None:
        text = Text("no checkpoint yet")
    else:
        text = Text(f"checkpoint of step {newest['step']:,}, {span(newest['age'])} ago")
    if newest["failed"]:
        failed = f"; {count(newest['failed'], 'checkpoint')} failed since"
        text.append(f"{failed} ({one_line(newest['reason'])})", style="bold yellow")
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def graph(values: list[float], most: float) -> str:
    """Returns bars from 0 to ``most``; a blank is 0, and nothing else is."""
    scale = (len(_BARS) - 1) / most if most > 0 else 0.0
    return "".join(_BARS[max(1, round(one * scale)) if one > 0 else 0] for one in values)


def _blocks(scene: Scene, width: int, lines: int) -> Text | None:
    """A sign for each replica, in order; None where there are too few lines for them."""
    states = [*scene.states.values()]
    if -(-len(states) // width) + 1 > lines:
        return None
    text = Text()
    for begin in range(0, len(states), width):
        for state in states[begin : begin + width]:
            text.append(*SIGNS[state])
        text.append("\n")
    for state in sorted(Counter(states)):
        sign, colour = SIGNS[state]
        text.append(sign, style=colour)
        text.append(f" {state}   ")
    text.rstrip()
    return text
