"""How many workers trained when. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from launcher.status.history import History
from launcher.status.worlds import Axis


class Size(NamedTuple):
    """So many workers trained from one time to another, in Unix seconds."""

    since: float
    until: float
    workers: int


def sizes_of(history: History, axis: Axis) -> Iterator[Size]:
    """Yields the sizes of a run's worlds; between two of them nobody trains.

    Of a script that tells no steps a world is there until the next one forms.

    Args:
        history: the run's.
        axis: of its worlds.
    """
    newest = axis.at(history.ended or history.newest)
    for place, world in enumerate(axis.worlds):
        until = world.ends
        if not history.steps_known:
            following = axis.worlds[place + 1 : place + 2]
            until = following[0].formed if following else max(world.begins, newest)
        size = world.generation.world_size
        if size is not None and until > world.begins:
            yield Size(world.begins, until, size)


def means(sizes: Iterable[Size], start: float, end: float, count: int) -> list[float]:
    """Returns the mean number of workers in each of so many equal parts of a time."""
    width = max(end - start, 1e-9) / count
    found = [0.0] * count
    for since, until, workers in sizes:
        first = max(0, int((since - start) / width))
        for part in range(first, min(count, int((until - start) / width) + 1)):
            begins = start + part * width
            inside = min(until, begins + width) - max(since, begins)
            found[part] += workers * max(0.0, inside) / width
    return found


def joined(sizes: Sequence[Size], most: int) -> Iterator[Size]:
    """Yields at most so many: of more, some that follow each other as one of the least of them."""
    each = max(1, -(-len(sizes) // most))
    for begin in range(0, len(sizes), each):
        some = sizes[begin : begin + each]
        yield Size(some[0].since, some[-1].until, min(size.workers for size in some))
