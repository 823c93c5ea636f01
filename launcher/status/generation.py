"""One formation of the world, as far as its events are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

MERGED = 10.0  # seconds of training up to which what was reported is kept as one
OLDER = 0.02  # of a world's time, up to which what is not its newest is


@dataclass
class Stretch:
    """Consecutive steps that were reported together.

    Attributes:
        first, last: of the steps.
        seconds: that they took, each since the one before in its world.
        samples: that they took in these seconds; 0 where that is not known.
        data_wait: of these seconds, those that rank 0 waited for its batches; None likewise.
        accounts: what all ranks have told of their time meanwhile (trainer.engine.timing), in
            seconds of all of them; None likewise.
    """

    first: int
    last: int
    seconds: float
    samples: int = 0
    data_wait: float | None = None
    accounts: dict[str, float] | None = None

    def after(self, start: int | None) -> Stretch:
        """Without the first step of a world that began at ``start``, which takes no time here."""
        if start is None or self.first != start + 1:
            return self
        return replace(self, first=self.first + 1)

    def with_next(self, other: Stretch) -> Stretch | None:
        """This one and ``other``, if that follows it."""
        both = replace(self, accounts=self.accounts and dict(self.accounts))
        return both if both.goes_on(other) else None

    def goes_on(self, other: Stretch) -> bool:
        """Takes ``other`` in, if that follows it; returns whether it does."""
        if other.first != self.last + 1:
            return False
        self.last = other.last
        self.seconds += other.seconds
        self.samples += other.samples
        if other.data_wait is not None:
            self.data_wait = (self.data_wait or 0.0) + other.data_wait
        if not self.accounts:
            self.accounts = other.accounts
        elif other.accounts:
            for name, spent in other.accounts.items():
                self.accounts[name] = self.accounts.get(name, 0.0) + spent
        return True

    def since(self, step: int) -> Stretch:
        """Without those that are not after ``step``; all take equally long."""
        if step < self.first:
            return self
        part = (self.last - step) / (self.last - self.first + 1)
        return replace(self, first=step + 1, seconds=self.seconds * part)


@dataclass
class Generation:
    """One formation of the world.

    Attributes:
        generation: its number.
        world_size, cause, at, members, term: as it was formed.
        began_at: when its workers had begun, as its leader says, in Unix seconds.
        left: whether it was to be left.
        start: steps completed when it began; None when it never did.
        last: steps completed at its newest report.
        idle: seconds since its workers' last step when it began; None if none of them had one.
        first_took: seconds from its beginning to its first step.
        first_at, last_at: when its first and its last step were completed, in Unix seconds.
        stretches: its steps, and what they took.
        script: whether it is a torchrun script's: where it goes on from, its steps tell.
        said: the first step that the script has told of.
    """

    generation: int
    world_size: int | None = None
    cause: str | None = None
    at: float | None = None
    members: list[str] = field(default_factory=list)
    term: int = 0
    began_at: float | None = None
    left: bool = False
    start: int | None = None
    last: int = 0
    idle: float | None = None
    first_took: float | None = None
    first_at: float | None = None
    last_at: float = -math.inf
    stretches: list[Stretch] = field(default_factory=list)
    script: bool = False
    said: int | None = None
    _seconds: float = 0.0  # of its stretches, about

    def began(self, step: int, idle: float | None) -> None:
        """Its workers have begun, at ``step``; a leader that takes over may say so again."""
        self.start = step if self.start is None else min(self.start, step)
        self.last = max(self.last, self.start)
        self.idle = idle if self.idle is None else self.idle

    def reached(self, step: int, at: float | None = None) -> None:
        """It has completed ``step``, at a time in Unix seconds."""
        self.last = max(self.last, step)
        if at is not None:
            self.last_at = max(self.last_at, at)

    def took(self, stretch: Stretch) -> None:
        """Steps were reported, with what they took; steps may be reported twice."""
        known = self.stretches
        self._seconds += stretch.seconds
        if known and known[-1].seconds + stretch.seconds <= MERGED and known[-1].goes_on(stretch):
            return
        known.append(stretch)
        if len(known) > 3 and self._is_short(*known[-4:-2]) and known[-4].goes_on(known[-3]):
            del known[-3]

    def _is_short(self, one: Stretch, other: Stretch) -> bool:
        return one.seconds + other.seconds <= OLDER * self._seconds

    @property
    def speed(self) -> Stretch | None:
        """Its newest steps that were reported with what they took: some seconds of them."""
        if not self.stretches:
            return None
        newest = (self._last_two() or self.stretches[-1]).after(self.start)
        return newest if newest.seconds and newest.last >= newest.first else None

    @property
    def mean_speed(self) -> float | None:
        """Its steps a second, over all of them but the first."""
        steps = seconds = 0.0
        for one in self.distinct():
            steps, seconds = steps + one.last - one.first + 1, seconds + one.seconds
        rate = steps / seconds if seconds > 0 else math.inf
        return float(f"{rate:.4g}") if math.isfinite(rate) else None

    def _last_two(self) -> Stretch | None:
        """Its last two stretches as one, if they follow each other."""
        return self.stretches[-2].with_next(self.stretches[-1]) if self.stretches[1:] else None

    def distinct(self) -> Iterator[Stretch]:
        """Its steps but the first, each once, in order; it takes no time here."""
        known = 0 if self.start is None else self.start + 1
        begun = (one.after(self.start) for one in self.stretches)
        for one in sorted(begun, key=lambda one: (one.first, -one.last)):
            if one.last > known and one.last >= one.first:
                yield one.since(known)
                known = one.last
