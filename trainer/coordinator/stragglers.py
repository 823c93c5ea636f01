"""Who is slower than the others, for how long, and whether another machine is to replace it. Pure.

All ranks wait for the slowest, so what a step takes is what that one takes. Rank 0 tells every few
seconds what each rank has spent (trainer.engine.timing); a rank is *slow* when its own time, what
it computes and what it waits for its data, is NAMED times the median of the others', or more. A
larger share of the batch is no slowness: the time for each sample must be so, too. Who is slow in
two reports in a row is a straggler: its agent is asked why, and it is told of, until it is not slow
in two reports.

With ``replace_stragglers`` one that stays so slow as that says, for STAYS seconds, leaves at a step
boundary, and its replica is started anew, on another machine where the cloud has one: at most one
in EVERY seconds, and MOST in a run, if enough others stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import MemberId, World

NAMED, CALMED = 1.3, 1.15  # times the others' time, from which on a rank is slow; or is no more
LONG = 2  # reports in a row
STAYS = 60.0  # seconds of reports, in all of which one is so slow that it is replaced
EVERY = 600.0  # seconds between two replacements
MOST = 3  # replacements in a term of a leader
ANSWER = 15.0  # seconds for an agent to say why
LEAST = 0.005  # seconds by which a step is longer for it; less is the kernel's whim
REASON_LIMIT = 300
HALF = 0.5  # of what it takes longer, that is waiting for data: then that is why


@dataclass
class Rank:
    """One rank of a world, as told of last.

    Attributes:
        ratio: its own time, as a multiple of the others'.
        own, usual: its own time in a step, and the others', in seconds.
        data_wait: of the difference, what it waits for its data.
        slow, calm: reports in a row in which it was slow, or was not.
        enough: seconds of reports in a row in which it was slow enough to be replaced.
        straggles: whether it was told of.
        asked: when its agent was asked why; None if it was not.
        why: what that has said; None before.
    """

    ratio: float = 1.0
    own: float = 0.0
    usual: float = 0.0
    data_wait: float = 0.0
    slow: int = 0
    calm: int = 0
    enough: float = 0.0
    straggles: bool = False
    asked: float | None = None
    why: str | None = None

    @property
    def reason(self) -> str:
        """Why it is slow, in words."""
        longer = self.own - self.usual
        told = [self.why] if self.why else []
        if longer > 0 and self.data_wait >= HALF * longer:
            told.insert(0, f"it waits for its data: {self.data_wait:.3g} s more than others a step")
        return "; ".join(told) or "nothing on its machine tells why"


@dataclass(frozen=True)
class Straggler:
    """What is to be told of one, and done.

    Attributes:
        member, rank: which.
        told: of it.
        over: whether it is none any more.
        leaves: whether it is to be replaced.
    """

    member: MemberId
    rank: int
    told: Rank
    over: bool = False
    leaves: bool = False

    @property
    def figures(self) -> dict[str, Any]:
        """What the event ``straggler`` says, besides whose it is."""
        told = self.told
        return {
            "ratio": round(told.ratio, 2),
            "seconds": round(told.own, 4),
            "usual": round(told.usual, 4),
            "reason": None if self.over else told.reason,
            "over": self.over,
            "then": "replica" if self.leaves else None,
        }

    @property
    def why_it_leaves(self) -> str:
        """In words, for its notice."""
        told = self.told
        return f"{told.ratio:.1f} times as slow as the others ({told.reason})"


@dataclass
class _World:
    world: World | None = None
    step: int = 0
    ranks: dict[int, Rank] = field(default_factory=dict)


class Stragglers:
    """Knows who straggles in the newest world. All times are membership's, in seconds.

    Args:
        replace: how many times as slow one must be to be replaced; None if none is.
        least: workers that must stay.
    """

    def __init__(self, replace: float | None, least: int) -> None:
        self._replace = replace
        self._least = least
        self._at = _World()
        self._replaced: list[float] = []

    def take(self, world: World, told: pb.Ranks, now: float) -> list[pb.Examine]:
        """Takes in what the ranks of a world have spent. Returns whose agents are to say why."""
        if world != self._at.world:
            self._at = _World(world)
        if told.generation != world.generation or told.step <= self._at.step or told.count < 1:
            return []
        self._at.step = told.step
        asked = []
        for rank, (ratio, own, usual, waits) in _compared(told, world.size).items():
            one = self._at.ranks.setdefault(rank, Rank())
            slow = ratio >= NAMED and own - usual >= LEAST
            one.ratio, one.own, one.usual, one.data_wait = ratio, own, usual, waits
            one.slow = one.slow + 1 if slow else 0
            one.calm = 0 if ratio > CALMED else one.calm + 1
            enough = self._replace is not None and slow and ratio >= self._replace
            one.enough = one.enough + told.seconds if enough else 0.0
            if one.slow >= LONG and one.asked is None and not one.straggles:
                one.asked, one.why = now, None
                asked.append(pb.Examine(generation=world.generation, rank=rank))
        for rank in self._at.ranks.keys() - set(told.ranks):  # not among the slowest any more
            one = self._at.ranks[rank]
            one.slow, one.calm, one.enough = 0, one.calm + 1, 0.0
        return asked

    def explained(self, member: MemberId, answer: pb.Examined) -> None:
        """An agent has said why one is slow."""
        world, one = self._at.world, self._at.ranks.get(answer.rank)
        if world is None or one is None or answer.generation != world.generation:
            return
        if members_by_rank(world)[answer.rank] == member:
            one.why = "".join(c for c in answer.reason[:REASON_LIMIT] if c.isprintable())

    def due(self, now: float) -> list[Straggler]:
        """What is to be told and done now."""
        if self._at.world is None:
            return []
        found = []
        members = members_by_rank(self._at.world)
        for rank, one in sorted(self._at.ranks.items()):
            member = members[rank]
            if one.asked is not None and (one.why is not None or now - one.asked >= ANSWER):
                one.asked = None
                if one.slow:
                    one.straggles = True
                    found.append(Straggler(member, rank, one))
            elif one.straggles and one.calm >= LONG:
                one.straggles = False
                found.append(Straggler(member, rank, one, over=True))
            elif one.straggles and one.enough >= STAYS and self._may_replace(member, now):
                self._replaced.append(now)
                one.enough = 0.0
                found.append(Straggler(member, rank, one, leaves=True))
        return found

    def _may_replace(self, member: MemberId, now: float) -> bool:
        world, before = self._at.world, self._replaced
        assert world is not None
        if len(before) >= MOST or (before and now - before[-1] < EVERY):
            return False
        return world.size - world.slots_of(member) >= self._least


def members_by_rank(world: World) -> list[MemberId]:
    """Whose each rank is."""
    return [member for member, count in world.slots for _ in range(count)]


def _compared(told: pb.Ranks, size: int) -> dict[int, tuple[float, float, float, float]]:
    """By rank: its ratio, its own time in a step, the others', and what it waits for data more."""
    lists = told.ranks, told.computed, told.data_wait, told.samples
    if len({len(one) for one in lists}) != 1 or len(set(told.ranks)) != len(told.ranks):
        return {}
    rows = {
        rank: (computed / told.count, waits / told.count, samples)
        for rank, computed, waits, samples in zip(*lists, strict=True)
        if 0 <= rank < size
    }
    medians = told.median_computed / told.count, told.median_data_wait / told.count
    found = {}
    for rank, (computed, waits, samples) in rows.items():
        others = [row for other, row in rows.items() if other != rank]
        if len(rows) == size and others:  # all are there
            usual, usual_wait = median(sum(row[:2]) for row in others), _median(others, 1)
            usual_samples = _median(others, 2)
        else:
            usual, usual_wait, usual_samples = sum(medians), medians[1], float(samples)
        own = computed + waits
        if not (usual > 0 and own > 0):
            continue
        ratio = own / usual
        if samples > 0 and usual_samples > 0:
            ratio = min(ratio, ratio * usual_samples / samples)
        found[rank] = (ratio, own, usual, waits - usual_wait)
    return found


def _median(rows: Sequence[tuple[float, float, int]], column: int) -> float:
    return float(median(row[column] for row in rows))
