"""What the ranks of a new world hold, told to each other once, and whose state counts."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from trainer.engine.data import ENDLESS, Order
from trainer.engine.digest import digest_of
from trainer.engine.mistake import Mistake
from trainer.loaders.likeness import UNKNOWN, Likeness

_WORDS = {
    "samples": "data sets of {} samples",
    "batch": "global batches of {}",
    "order": "other seeds for the order of the data",
    "total": "{} steps in all",
    "unit": "units of {} samples",
}


@dataclass(frozen=True)
class Loop:
    """What a rank's program loops over, in numbers that float64 holds exactly.

    Attributes:
        samples: size of its data set; 0 without one.
        batch: the global batch.
        order: what fixes the order of the data: a digest of the seed.
        total: steps of the whole run.
        unit: the samples of a unit; 0 without units.
        exact, chosen, level: what its data is like (see trainer.loaders.likeness).
    """

    samples: int = 0
    batch: int = 0
    order: int = 0
    total: int = 0
    unit: int = 0
    exact: int = 0
    chosen: int = 0
    level: float = 0.0

    @classmethod
    def of(cls, order: Order | None, total: int) -> Loop:
        """That of a loop over some data, or over none."""
        if order is None:
            return cls(total=total)
        return cls(order.samples, order.batch, digest_of(order.seed) >> 12, total, order.unit)

    def over(self, data: Likeness) -> Loop:
        """The same, over data that is like this."""
        return replace(self, exact=data.exact, chosen=data.chosen, level=data.level)

    @property
    def likeness(self) -> Likeness:
        """What its data is like."""
        return Likeness(self.exact, self.level, self.chosen)

    def differs(self, other: Loop) -> bool:
        """Whether it is not over the same."""
        numbers = any(getattr(self, name) != getattr(other, name) for name in _WORDS)
        return numbers or self.likeness.differs(other.likeness)


@dataclass(frozen=True)
class Holding:
    """What one rank brings into a generation.

    Attributes:
        step: steps completed.
        clean: whether its state is exactly that of ``step``, trained or received.
        speed: samples per second that it computed at last; 0 when it is not known.
        loop: what it loops over.
        device: the kind of device that it computes on, as a number below 2**52.
        fits: the most samples that have gone through one backward pass here; 0 for none.
        cap: the most that may from now on, since memory has run out; 0 for no limit.
        again: whether what follows the block of ``step`` was broken off here.
        learned: the digest of what it has learned.
    """

    step: int
    clean: bool
    speed: float = 0.0
    loop: Loop = field(default_factory=Loop)
    device: int = 0
    fits: int = 0
    cap: int = 0
    again: bool = False
    learned: int = 0


@dataclass(frozen=True)
class Agreement:
    """The same on every rank.

    Attributes:
        holdings: of every rank, in order of rank.
    """

    holdings: tuple[Holding, ...]

    @property
    def root(self) -> int:
        """The most advanced clean rank; rank 0 when none is clean."""
        ranks = range(len(self.holdings))
        best = max(ranks, key=lambda r: (self.holdings[r].clean, self.holdings[r].step, -r))
        return best if self.holdings[best].clean else 0

    @property
    def held(self) -> bool:
        """Whether anybody holds a state that is worth having."""
        return self.holdings[self.root].clean

    @property
    def mixed(self) -> bool:
        """Whether ranks compute on unlike devices, which round differently."""
        return len({one.device for one in self.holdings}) > 1

    @property
    def fits(self) -> int:
        """The most samples that are known to fit into the memory of every rank; 0 if none are."""
        known = [one.fits for one in self.holdings if one.fits]
        return (min if self.mixed else max)(known, default=0)

    @property
    def cap(self) -> int:
        """The least limit that any rank has found; 0 for none."""
        return min((one.cap for one in self.holdings if one.cap), default=0)

    @property
    def again(self) -> bool:
        """Whether all ranks are to run again what follows the block of the step that counts."""
        return any(one.again and self.is_held_by(one) for one in self.holdings)

    def is_held_by(self, one: Holding) -> bool:
        """Whether a rank holds the state that counts already."""
        return one.clean and one.step == self.holdings[self.root].step

    @property
    def unanimous(self) -> bool:
        """Whether all ranks hold the same state already."""
        return all(map(self.is_held_by, self.holdings))

    @property
    def learned_alike(self) -> bool:
        """Whether all ranks know the same of what steps have shown."""
        return len({one.learned for one in self.holdings}) <= 1

    @property
    def unlike(self) -> dict[str, list[int]]:
        """What the ranks do not loop over alike: by the name in ``Loop``, each rank's number."""
        found = {name: [getattr(one.loop, name) for one in self.holdings] for name in _WORDS}
        return {name: values for name, values in found.items() if len(set(values)) > 1}

    def require_alike(self, rank: int) -> None:
        """To be called by each ``rank``, when the ranks have told each other what they hold.

        If they do not loop over the same, it raises Mistake. If those who hold the state do, only
        the others are wrong: the former get HorovodInternalError, and go on without them.
        """
        texts = [
            _WORDS[name].format(
                ", ".join("endless" if one == ENDLESS else str(one) for one in values)
            )
            for name, values in self.unlike.items()
        ]
        if not texts and (sides := self._other_samples()):
            texts = [f"other samples on ranks {' and '.join(sides)}, in as many and in that order"]
        if not texts:
            return
        holders = [one.loop for one in self.holdings if self.held and self.is_held_by(one)]
        wrong = [any(one.loop.differs(other) for other in holders) for one in self.holdings]
        holds = self.held and self.is_held_by(self.holdings[rank])
        if not wrong[rank] and (holds or any(wrong)):
            raise HorovodInternalError("a newcomer does not loop over the same")
        raise Mistake(
            "SW5122",
            f"the workers do not loop over the same: by rank, they have {'; '.join(texts)}; "
            "let all read the same files, and fix what is random by a seed",
        )

    def _other_samples(self) -> list[str]:
        """The ranks whose data is alike, in groups; none if that of all is."""
        groups: list[list[int]] = []
        for rank, one in enumerate(self.holdings):
            if one.loop.likeness == UNKNOWN:
                continue
            for group in groups:
                if not self.holdings[group[0]].loop.likeness.differs(one.loop.likeness):
                    group.append(rank)
                    break
            else:
                groups.append([rank])
        return [", ".join(map(str, group)) for group in groups] if len(groups) > 1 else []


def agree(mine: Holding) -> Agreement:
    """Tells all ranks what this one holds. A collective: every rank must call it."""
    loop, memory = astuple(mine.loop), (mine.fits, mine.cap)
    row = [mine.step, mine.clean, mine.speed, mine.device, *memory, mine.again, mine.learned, *loop]
    held = torch.tensor([row], dtype=torch.float64, device="cpu")
    told = hvd.allgather(held, name="state.held").tolist()
    return Agreement(
        tuple(
            Holding(
                int(step),
                bool(clean),
                speed,
                replace(Loop(*map(int, numbers)), level=level),
                int(device),
                int(fits),
                int(cap),
                bool(again),
                int(learned),
            )
            for step, clean, speed, device, fits, cap, again, learned, *numbers, level in told
        )
    )
