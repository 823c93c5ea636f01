"""Whether a machine is let in, by what it has shown before it took part. Pure.

With ``elastic: {preflight: true}`` each agent measures its machine first (trainer.agent.preflight).
Replicas of one pool of one job have the same machines; so one that moves memory, or multiplies, at
less than PART of the median of at least OTHERS of them is unfit, and so is one that could not be
measured, or multiplies wrongly. Its replica is started anew, on another machine where the cloud has
one, and stays out the second time. Who trains already is never judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from trainer.protocol.signals import Joined, Shown
from trainer.protocol.world import MemberId

PART = 0.6  # of what others have, that is enough
OTHERS = 2
AGAIN = 1  # times that a replica is started anew for it


@dataclass(frozen=True)
class Unfit:
    """A machine that is not let in.

    Attributes:
        reason: why, with figures.
        again: whether its replica is started anew; else it stays out.
    """

    reason: str
    again: bool


class Preflight:
    """Knows what machines have shown, and judges those that come."""

    def __init__(self) -> None:
        self._shown: dict[MemberId, Shown] = {}  # of those that were let in
        self._refused: dict[str, int] = {}  # how often, by replica

    def judge(self, joined: Joined) -> Unfit | None:
        """Returns why the member is not let in; None if it is."""
        shown, member = joined.shown, joined.member
        if shown is None:
            return None
        reason = shown.failed or "; ".join(self._lacks(member, shown))
        if joined.world is not None or not reason:
            if not shown.failed:
                self._shown[member] = shown
            return None
        times = self._refused[member.replica] = self._refused.get(member.replica, 0) + 1
        return Unfit(reason, times <= AGAIN)

    def _lacks(self, member: MemberId, shown: Shown) -> Iterator[str]:
        pool = pool_of(member)
        # By replica: of one that has come back the newest counts, and not itself.
        others = {it.replica: one for it, one in self._shown.items() if pool_of(it) == pool}
        others.pop(member.replica, None)
        for what, unit, own, theirs in (
            ("its memory moves", "GB/s", shown.memory, [it.memory for it in others.values()]),
            ("it computes", "GFLOP/s", shown.matmul, [it.matmul for it in others.values()]),
        ):
            if not (math.isfinite(own) and own > 0):
                yield f"{what} {own} {unit}"
            elif len(theirs) >= OTHERS and own < PART * (usual := median(theirs)):
                figures = f"{own / 1e9:,.3g} {unit}, and others of its pool {usual / 1e9:,.3g}"
                yield f"{what} {figures}"


def pool_of(member: MemberId) -> str:
    """The pool of a replica, with its attempt in a fleet: all its machines are alike."""
    return member.replica.rpartition("-")[0]
