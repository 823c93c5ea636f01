"""The screens of ``swell watch``, and the keys that lead from one to another. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from launcher.logs.logline import Line, shown
from launcher.run_states import info_of
from launcher.views.live import SIGNS, Scene
from launcher.views.watch import Panorama
from launcher.words import at_clock, count

NAMES = ("overview", "replicas", "events", "logs")
QUIT = "q"
AROUND = 4  # lines of a screen besides what it lists
_ALL = 10**9


class Screens:
    """What is shown of a run, one thing at a time.

    Args:
        keys: whether there are any to be pressed: then the last line says which.

    Attributes:
        name: of the screen that is shown.
        log: the newest lines of the run's log, or a word on why there are none.
    """

    def __init__(self, keys: bool) -> None:
        self.name = NAMES[0]
        self.log: Sequence[Line] | str = ()
        self._keys = keys
        self._panorama = Panorama()
        self._back = 0  # lines from the end; of replicas, from the beginning
        self._page, self._most = 1, 0  # as it was drawn

    def press(self, key: str) -> bool:
        """Does what a key stands for. Returns whether that is to go on: ``q`` is not."""
        for number, name in enumerate(NAMES, 1):
            if key in (str(number), name[0]):
                self.name, self._back = name, 0
        from_end = -1 if self.name == "replicas" else 1
        moves = {"up": 1, "down": -1, "page up": self._page, "page down": -self._page}
        moves |= {"home": _ALL, "end": -_ALL}
        moved = self._back + from_end * moves.get(key, 0)
        self._back = min(max(0, moved), self._most)
        return key != QUIT

    def draw(self, scene: Scene, now: float, width: int, height: int) -> RenderableType:
        """Returns the screen.

        Args:
            scene: the run.
            now: Unix seconds.
            width, height: columns and lines.
        """
        if not self._keys:
            return self._panorama.draw(scene, now, width, height)
        if self.name == "overview":
            shown = self._panorama.draw(scene, now, width, height - 2)
            return Group(_Top(shown, height - 2), self._footer(width))
        lines = self._lines(scene, width)
        self._page = max(1, height - AROUND)
        self._most = max(0, len(lines) - self._page)
        back = min(self._back, self._most)
        first = back if self.name == "replicas" else self._most - back
        part = lines[first : first + self._page]
        blank = [Text("")] * (self._page - len(part))
        where = f"{first + 1:,} to {first + len(part):,} of {len(lines):,}" if part else ""
        head = Text.assemble((scene.run_id, "bold"), "  ", self.name, f"  {where}")
        head.append(f"  {scene.state}", style=f"bold {info_of(scene.state).colour}")
        rule = Text("─" * width, style="dim")
        every = [_cut(head), rule, *map(_cut, part), *blank, self._footer(width)]
        return Group(*every)

    def _lines(self, scene: Scene, width: int) -> list[Text]:
        if self.name == "replicas":
            return [*_replicas(scene, width)]
        if self.name == "events":
            return [Text(f"{at_clock(at)}  {line}") for at, line in scene.told]
        if isinstance(self.log, str):
            return [Text(self.log)]
        return [Text(one) for line in self.log for one in shown(line).splitlines()]

    def _footer(self, width: int) -> Text:
        shown = "  ".join(
            f"[{number} {name}]" if name == self.name else f"{number} {name}"
            for number, name in enumerate(NAMES, 1)
        )
        scroll = "" if self.name == "overview" else "  arrows scroll"
        return _cut(Text(f"{shown}{scroll}  {QUIT} quit", style="dim"))


class _Top:
    """The first lines of what is drawn: in a low terminal, what tells of the keys stays."""

    def __init__(self, whole: RenderableType, most: int) -> None:
        self._whole, self._most = whole, max(0, most)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = options.update(height=None)
        for line in console.render_lines(self._whole, whole, pad=False)[: self._most]:
            yield from line
            yield Segment.line()


def _replicas(scene: Scene, width: int) -> Iterable[Text]:
    """How many are in which state, and then all of them, as many in a line as fit."""
    states = scene.states
    tally = Counter(states.values())
    yield Text(
        f"{count(len(states), 'replica')}: "
        + ", ".join(f"{many:,} {state}" for state, many in sorted(tally.items()))
    )
    cell = max((len(name) + len(state) for name, state in states.items()), default=0) + 5
    across = max(1, width // cell)
    names = [*states]
    for begin in range(0, len(names), across):
        line = Text()
        for name in names[begin : begin + across]:
            sign, colour = SIGNS[states[name]]
            told = f" {name} {states[name]}".ljust(cell - 1)
            line.append(sign, style=colour).append(told)
        yield line


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
