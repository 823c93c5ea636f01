"""The gist of events: all of them, with steps told together. Pure.

Of a month of steps each is on record, which nobody who asks how a run is wants to read. The gist
says the same of the run in much less: what ``swell status`` shows of it is what it shows of all
events. What it leaves out are the metrics of most steps, and how long each single one of up to
``STRETCH`` seconds of steps took.

- Consecutive steps that were reported with what they took become one ``steps``, with the metrics of
  the last of them. The step at which a metric was finite for the last time, that from which on it
  has not been, and the newest that has it are told by themselves, too.
- Of what single ranks have spent (``ranks``), the newest of each world is left.
- Of a script's reports, each of one step, the first and the last of a world are left, one for every
  ``STRETCH`` seconds, and those from which it is known how far apart they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from trainer.rundir.batches import Event
from trainer.rundir.numbers import number_in

STRETCH = 600.0  # seconds of training
_TIMED = frozenset({"seconds", "samples", "data_wait", "accounts"})


def gist(events: Iterable[Event]) -> list[Event]:
    """Returns the gist of events, in order of time."""
    told: list[Event] = []
    spans: dict[int, list[Event]] = defaultdict(list)  # by generation
    reports: dict[int, list[Event]] = defaultdict(list)
    ranks: dict[Any, Event] = {}  # by generation: the newest
    for event in events:
        kind = _kind(event)
        if event["event"] == "ranks":
            ranks[event.get("generation")] = event
        elif kind is None:
            told.append(event)
        else:
            (spans if kind == "span" else reports)[event["generation"]].append(event)
    told += ranks.values()
    values = _Values()
    for event in (one for of in (*spans.values(), *reports.values()) for one in of):
        values.add(event)
    for generation in spans.values():
        together = list(_together(sorted(generation, key=lambda one: (one["first"], one["time"]))))
        ends = {(one["generation"], _last(one)) for one in together}
        # A step by itself comes before those that end at the same time, as it did.
        points = [point for one in generation for point in values.points(one, ends)]
        told += [*sorted(points, key=_last), *together]
    for generation in reports.values():
        told += _thinned(sorted(generation, key=lambda one: float(one["time"])), values)
    return sorted(told, key=lambda one: float(one["time"]))


def _kind(event: Event) -> str | None:
    """What an event is here: a span of steps with what they took, a report, or left as it is."""
    if event["event"] != "steps" or not isinstance(event.get("metrics"), dict):
        return None
    known = all(_is_whole(event.get(name)) for name in ("generation", "first"))
    if not known or _last(event) < event["first"]:
        return None
    timed = _is_whole(event.get("count")) and event["count"] > 0
    return "span" if timed and isinstance(event.get("seconds"), float | int) else "report"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _accounts(*events: Event) -> Event:
    """The sums of what steps went into, as a field of an event; {} where nobody knows."""
    sums: dict[str, float] = {}
    for one in events:
        told = one.get("accounts")
        for name, seconds in told.items() if isinstance(told, dict) else ():
            if _is_number(seconds):
                sums[name] = round(sums.get(name, 0.0) + seconds, 4)
    return {"accounts": sums} if sums else {}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _series(event: Event) -> dict[str, list[Any]]:
    return {name: of for name, of in event["metrics"].items() if isinstance(of, list) and of}


def _last(event: Event) -> int:
    """The last step that an event tells of."""
    first, count = event["first"], event.get("count")
    longest = count if isinstance(count, int) else 0
    for of in event["metrics"].values():
        if isinstance(of, list) and len(of) > longest:
            longest = len(of)
    last: int = first + longest - 1
    return last


def _together(events: Iterable[Event]) -> Iterator[Event]:
    """Consecutive steps of one generation as one event, as far as that may reach."""
    one: Event | None = None
    for event in events:
        new = {**event, "metrics": {name: [of[-1]] for name, of in _series(event).items()}}
        if one is None:
            one = new
        elif new["first"] == _last(one) + 1 and one["seconds"] + new["seconds"] <= STRETCH:
            joined = {"first": one["first"], "count": _last(new) - one["first"] + 1}
            sums = {"seconds": round(one["seconds"] + new["seconds"], 6)}
            if all(_is_whole(each.get("samples")) for each in (one, new)):
                sums["samples"] = one["samples"] + new["samples"]
            waits = [each["data_wait"] for each in (one, new) if _is_number(each.get("data_wait"))]
            if waits:
                sums["data_wait"] = round(sum(waits), 6)
            sums |= _accounts(one, new)
            one = {**new, **joined, **sums}
        else:
            yield one
            one = new
    if one is not None:
        yield one


def _thinned(reports: list[Event], values: _Values) -> Iterator[Event]:
    """Of reports in order of time those that tell how far their world was, and when."""
    keep = {0, len(reports) - 1}
    ahead, kept_at, nearest = 0, float(reports[0]["time"]), math.inf
    for at, one in enumerate(reports[1:], 1):
        stride = one["first"] - _last(reports[ahead])
        if stride <= 0:
            keep.add(ahead)  # until it is passed, what was done before is done again
        elif ahead != at - 1 or stride < nearest:
            keep |= {ahead, at - 1, at}
            nearest = min(nearest, stride)
        if one["time"] - kept_at >= STRETCH or values.need(one):
            keep.add(at)
        if at in keep:
            kept_at = float(one["time"])
        if _last(one) > _last(reports[ahead]):
            ahead = at
    return (reports[at] for at in sorted(keep))


class _Values:
    """Which steps' metrics say how each metric is: the newest, the last finite, the first since."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, int]] = {}  # generation and step
        self._finite: dict[str, tuple[int, int]] = {}
        self._strange: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._needed: dict[tuple[int, int], set[str]] | None = None

    def add(self, event: Event) -> None:
        for name, at, number, _ in _values_of(event):
            self._newest[name] = max(at, self._newest.get(name, at))
            if math.isfinite(number):
                self._finite[name] = max(at, self._finite.get(name, at))
            else:
                self._strange[name].append(at)

    def need(self, event: Event) -> bool:
        """Whether one of an event's steps is one of these."""
        return any(name in self._all.get(at, ()) for name, at, *_ in _values_of(event))

    def points(self, event: Event, told: set[tuple[int, int]]) -> Iterator[Event]:
        """An event for each of an event's steps that is one of these, unless it is told of."""
        found: dict[tuple[int, int], dict[str, list[Any]]] = defaultdict(dict)
        for name, at, _, value in _values_of(event):
            if name in self._all.get(at, ()) and at not in told:
                found[at][name] = [value]
        for (_, step), metrics in found.items():
            untimed = {name: of for name, of in event.items() if name not in _TIMED}
            yield {**untimed, "first": step, "count": 1, "metrics": metrics}

    @property
    def _all(self) -> dict[tuple[int, int], set[str]]:
        if self._needed is None:
            self._needed = defaultdict(set)
            for name, newest in self._newest.items():
                finite = self._finite.get(name, (-1, -1))
                since = min((at for at in self._strange[name] if at > finite), default=newest)
                for at in (newest, finite, since):
                    self._needed[at].add(name)
        return self._needed


def _values_of(event: Event) -> Iterator[tuple[str, tuple[int, int], float, Any]]:
    """Each value of a metric: its name, generation and step, as a number, and as it is told."""
    last = _last(event)
    for name, of in _series(event).items():
        for step, value in enumerate(of, last - len(of) + 1):
            if (number := number_in(value)) is not None:
                yield name, (event["generation"], step), number, value
