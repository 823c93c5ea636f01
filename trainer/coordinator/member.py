"""What membership knows of one member (one incarnation of one replica), and where all stand."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.protocol.signals import Progress
from trainer.protocol.world import MemberId

NEVER = -math.inf  # a time before all others: the clock may be at any, also below zero


class State(enum.Enum):
    """Where a member stands."""

    JOINING = "joining"
    READY = "ready"
    ACTIVE = "active"
    DRAINING = "draining"


class Phase(enum.Enum):
    """Where the world stands."""

    WAITING = "waiting"
    FORMING = "forming"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass
class Member:
    """One member. All times are those of membership's clock, in seconds."""

    id: MemberId
    slots: int
    state: State
    heard: float
    ready_since: float = NEVER
    warm: bool = False  # all its workers are; READY, once it is admitted, too
    expected_until: float = NEVER  # its spare is about to be ready
    drain_until: float = math.inf
    again: bool = False  # once it has been drained, its replica is started anew
    away: bool = False  # its connection broke, and nobody else holds the state
    rank: float = math.inf  # its place in the newest world: survivors keep their order
    # In the generation that is forming, running or stopping:
    started: bool = False
    stopped: bool = False
    waiting: bool = False  # all its workers that are in it wait in a collective
    quiet: float = 0.0  # seconds since one of them last showed life, when last heard
    frozen_since: float | None = None  # one of them is stopped by a signal
    hung: bool = False  # one of them does not react
    lost: bool = False  # a loss of it, or of one of them, is on record
    # When it was sent out of a world that is over, and that it came with:
    leaving_since: float | None = None
    received: int = 0  # bytes of state that have come in
    saving: float = 0.0  # seconds that its share of a checkpoint takes, as measured
    # What it holds since it stopped:
    step: int = -1
    clean: bool = False
    holds: bool = False  # the state of a step: it trains, or has left with it

    def enter(self, rank: int) -> None:
        """It is in the world that forms now, at this place."""
        self.rank = rank
        self.state = State.ACTIVE
        self.started = self.stopped = self.clean = self.warm = False
        self.waiting = self.hung = self.lost = False
        self.quiet = 0.0
        self.leaving_since = None
        self.frozen_since = None
        self.received = 0

    def note_frozen(self, frozen: bool, now: float) -> None:
        """Takes in whether one of its workers, in a world or not, is stopped by a signal."""
        if not frozen:
            self.frozen_since = None
        elif self.frozen_since is None:
            self.frozen_since = now

    def lives(self, sign: Progress) -> bool:
        """Takes in what its agent sees of its workers in the world; whether state has come in."""
        self.quiet = sign.quiet
        self.waiting = sign.waiting
        self.saving = sign.saving
        before, self.received = self.received, sign.received
        return sign.received > before

    def leave(self, now: float) -> None:
        """It is sent out of a world that is over, and that it came with."""
        self.leaving_since = now
        self.stopped = self.hung = False
        self.frozen_since = None

    @property
    def named(self) -> dict[str, str]:
        """Who it is, as events say it."""
        return {"member": self.id.replica, "incarnation": self.id.incarnation}

    @property
    def usable(self) -> bool:
        """Whether it can be in the next world."""
        return self.state in (State.READY, State.ACTIVE) and not self.away


def slots_in(members: Iterable[Member]) -> int:
    """How many workers ``members`` have."""
    return sum(member.slots for member in members)


def enough_since(members: list[Member], least: int) -> float:
    """When the slots of ``members`` became at least ``least``, in seconds."""
    slots = 0
    for member in sorted(members, key=lambda one: one.ready_since):
        slots += member.slots
        if slots >= least:
            return member.ready_since
    raise ValueError(f"{slots} slots are fewer than {least}")


def in_order(members: Iterable[Member]) -> list[Member]:
    """Those who can be in the next world: survivors in order of rank, then newcomers."""
    return sorted(
        (member for member in members if member.usable),
        key=lambda member: (member.rank, member.ready_since, member.id),
    )


def choose(members: list[Member], least: int, most: int) -> list[Member]:
    """Who would be in a world formed now: survivors in order of rank, then newcomers.

    Members are taken whole, the earlier first. Only if that leaves fewer than ``least``
    slots, those are taken that fill ``most`` best.
    """
    usable = in_order(members)
    chosen: list[Member] = []
    room = most
    for member in usable:
        if member.slots <= room:
            chosen.append(member)
            room -= member.slots
    if most - room < least <= slots_in(usable):
        return _fill(usable, most)
    return chosen


def _fill(members: list[Member], most: int) -> list[Member]:
    best: dict[int, list[Member]] = {0: []}
    for member in members:
        for slots, chosen in list(best.items()):
            if slots + member.slots <= most:
                best.setdefault(slots + member.slots, [*chosen, member])
    return best[max(best)]
