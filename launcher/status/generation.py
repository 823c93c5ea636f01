"""One formation of the world, as far as its events are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

MERGED = 10.0  # seconds of training up to which what was reported is kept as one


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
    accounts: Mapping[str, float] | None = None

    def after(self, start: int | None) -> Stretch:
        """Without the first step of a world that began at ``start``, which takes no time here."""
        if start is None or self.first != start + 1:
            return self
        return replace(self, first=self.first + 1)

    def with_next(self, other: Stretch) -> Stretch | None:
        """This one and ``other``, if that follows it."""
        if other.first != self.last + 1:
            return None
        seconds, samples = self.seconds + other.seconds, self.samples + other.samples
        waited = self.data_wait if other.data_wait is None else other.data_wait
        if self.data_wait is not None and other.data_wait is not None:
            waited = self.data_wait + other.data_wait
        accounts = self.accounts or other.accounts
        if self.accounts and other.accounts:
            accounts = dict(self.accounts)
            for name, spent in other.accounts.items():
                accounts[name] = accounts.get(name, 0.0) + spent
        return Stretch(self.first, other.last, seconds, samples, waited, accounts)

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
        if known and known[-1].seconds + stretch.seconds <= MERGED:
            both = known[-1].with_next(stretch)
            if both is not None:
                known[-1] = both
                return
        known.append(stretch)

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
