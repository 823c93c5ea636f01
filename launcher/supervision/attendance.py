"""Who looks after a run: each says so in the run directory, and of the controllers one acts.

``attendants/000012.json`` is one process that looks after the run: a launch, an attach, or a
controller. It is created exclusively, so the numbers are an order, and its owner rewrites it with a
counter, its beat. Whether somebody is still there is judged by one's own clock, since the beat last
changed: clocks of machines are not compared.

Several launches may act at a time; they do not get into each other's way (see ``supervisor``). Of
controllers one acts at a time. One ranks above another if its number is higher, or, of two lives of
one controller, if it came later:

==================================  ==============================================================
a controller sees                   and
==================================  ==============================================================
one above it that lives             leaves: it is relieved
one above it, of which it is not    waits until it is: the beat changes, or does not for STALE
known whether it lives
one below it that has not left      waits until it has, or has not changed its beat for STALE
an earlier life of its own          does not wait: the CustomJob has one replica
otherwise                           acts
==================================  ==============================================================

So the old one goes on until the new one is there, and the new one begins when the old one has
stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic.dataclasses import dataclass as strict_dataclass

from launcher.records import STRICT, read_record
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ATTENDANTS

STALE = 6  # beats without which somebody is gone


class Relieved(Exception):
    """Another controller looks after the run; this one ends."""


@strict_dataclass(frozen=True, config=STRICT)
class Attendant:
    """One process that looks after a run, or did. Times are Unix seconds, by its own clock.

    Attributes:
        who: user@host.
        controller: which of the run's controllers it is; 0 for a launch.
        since: when it began.
        seen: when it last said that it is there.
        every: seconds after which it says so again.
        beat: how often it has.
        left: whether it does not act any more.
    """

    who: str = ""
    controller: int = 0
    since: float = 0.0
    seen: float = 0.0
    every: float = 0.0
    beat: int = 0
    left: bool = False

    def is_here(self, now: float) -> bool:
        """Whether it looks after the run, as far as ``now``, in Unix seconds, tells.

        The two clocks may differ, so this is for people; see the module for what decides.
        """
        return not self.left and now - self.seen < STALE * self.every

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Attendant:
        """Returns the attendant of a record; what is not as it should be is left at its default."""
        return read_record(cls, record)

    def to_json(self) -> dict[str, Any]:
        """Returns the record."""
        return asdict(self)


def who_is_here(attendants: Mapping[int, Attendant], now: float) -> list[Attendant]:
    """Returns who looks after a run; of several lives of one controller, the last.

    Args:
        attendants: all that there are and were, by number.
        now: Unix seconds; see ``Attendant.is_here``.
    """
    lives = {it.controller: number for number, it in sorted(attendants.items()) if it.controller}
    return [
        it
        for number, it in attendants.items()
        if it.is_here(now) and lives.get(it.controller, number) == number
    ]


def record_name(number: int) -> str:
    """Returns the name of an attendant's record in the run directory."""
    return f"{ATTENDANTS}/{number:06d}.json"


def read_attendants(
    run_dir: RunDirectory, known: Mapping[int, Attendant] | None = None
) -> dict[int, Attendant]:
    """Returns all that there are and were, by number.

    Args:
        run_dir: the run.
        known: those that were read before; of these, who has left is not read again.

    Raises OSError when the store does not say.
    """
    found = dict(known or {})
    names = [name.removesuffix(".json") for name in run_dir.store.names(ATTENDANTS)]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    ask = [one for one in numbers if one not in found or not found[one].left]

    def read(number: int) -> Attendant | None:
        with suppress(FileNotFoundError, ValueError):
            return Attendant.from_json(run_dir.read_json(record_name(number)))
        return None

    for number, record in zip(ask, run_dir.store.each(read, ask), strict=True):
        if record is not None:
            found[number] = record
    return dict(sorted(found.items()))


@dataclass
class _Pulse:
    """What is known here of whether somebody lives."""

    beat: int
    since: float  # when the beat was last seen to change, or first seen
    lives: bool = False  # whether it has changed, or came later than this one looked
    gone: bool = False  # whether it has left, or is not heard of any more


class Attendance:
    """Says that somebody looks after a run, and knows who else does.

    Args:
        run_dir: the run.
        attendant: who this is.
        clock: returns Unix seconds.
        ticks: returns seconds that pass alike.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        attendant: Attendant,
        clock: Callable[[], float],
        ticks: Callable[[], float],
    ) -> None:
        self._run_dir = run_dir
        self._me = replace(attendant, since=clock(), seen=clock())
        self._clock, self._ticks = clock, ticks
        self._number = 0  # of the record; 0 before there is one
        self._said = 0.0  # in ticks
        self._known: dict[int, Attendant] = {}
        self._pulses: dict[int, _Pulse] = {}
        self._looked = False

    @property
    def lives(self) -> dict[int, int]:
        """How often each controller has begun, by its number, as of the last look."""
        counts: dict[int, int] = {}
        for it in self._known.values():
            counts[it.controller] = counts.get(it.controller, 0) + 1
        return counts

    @property
    def controllers(self) -> frozenset[int]:
        """The controllers that are there, as of the last look; this one among them."""
        there = {
            it.controller
            for number, it in self._known.items()
            if it.controller and not it.left and self._pulses[number].lives
        }
        return frozenset(there | ({self._me.controller} if self._number else set())) - {0}

    def look(self, over: frozenset[int] = frozenset()) -> None:
        """Finds out who is there.

        Args:
            over: controllers whose CustomJobs have ended.

        Raises OSError when the store does not say.
        """
        self._known = read_attendants(self._run_dir, self._known)
        now = self._ticks()
        for number, it in self._known.items():
            pulse = self._pulses.get(number)
            if pulse is None:
                pulse = self._pulses[number] = _Pulse(it.beat, now, lives=self._looked)
            elif pulse.beat != it.beat:
                pulse.beat, pulse.since, pulse.lives, pulse.gone = it.beat, now, True, False
            if it.left or it.controller in over or now - pulse.since >= STALE * it.every:
                pulse.lives, pulse.gone = False, True
        self._looked = True

    def begin(self) -> None:
        """Says that this one is there, once. Raises OSError when the store does not take it."""
        if not self._looked:
            self.look()
        number = max(self._known, default=0)
        while not self._number:
            number += 1
            if self._run_dir.create_json(record_name(number), self._me.to_json()):
                self._number, self._said = number, self._ticks()

    def beat(self) -> None:
        """Says that it still is, when it is time to. Raises OSError as ``begin``."""
        if self._number and self._ticks() - self._said >= self._me.every:
            self._say(replace(self._me, seen=self._clock(), beat=self._me.beat + 1))

    def leave(self) -> None:
        """Says that it does not act any more. Raises OSError as ``begin``."""
        if self._number and not self._me.left:
            self._say(replace(self._me, seen=self._clock(), left=True))

    def may_act(self) -> bool:
        """Whether this one acts now, as of the last look. Raises Relieved; see the module."""
        if not self._me.controller:
            return True
        waits = False
        for number, it in self._known.items():
            pulse = self._pulses[number]
            if number == self._number or not it.controller or pulse.gone:
                continue
            above = (it.controller, number) > (self._me.controller, self._number)
            if above and pulse.lives:
                raise Relieved
            waits |= above or it.controller != self._me.controller
        return not waits

    def _say(self, me: Attendant) -> None:
        self._run_dir.write_json(record_name(self._number), me.to_json())
        self._me, self._said = me, self._ticks()
