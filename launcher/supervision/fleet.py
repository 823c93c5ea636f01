"""The attempts that a run wants alive at the same time, and which of them it lacks: purely.

A run without a ``fleet`` is a fleet of one. Which way each attempt goes is ``choices``' business;
here is decided how many are to be sent, of which kind, and where they may be:

- Anchors are sent first. Where there is none to be had, the others go on without.
- Where attempts have machines for a world, the others are sent to that region, unless the fleet may
  span regions: a world is as slow as the slowest connection in it. Those that are elsewhere are
  given up then. While there is none, they may wait in several regions.
- An attempt that somebody cancelled, or that succeeded by itself, is not replaced; until somebody
  asks for another fleet.
- What replaces an outdated attempt (launcher.supervision.replacement), or a dear one, is sent
  beside it: so more may be alive than are wanted, but no more than twice as many.
- Such a replacement is a bonus while the one that is to go trains. All of them are sent, or none
  where ``limits.attempts`` would then have less left than are wanted alive; and those that find no
  machines are sent again with half of what was left at the most (``spare``). So what is tried in
  vain leaves the run enough to go on with when it has lost everything.
- A choice whose last attempt failed in a way that would be the same again is not tried again; nor,
  while others live, one whose attempts these have not reached.
- No more than BURST are sent in a minute, however many are lacking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.job.fallback import Limits
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, by_end
from launcher.supervision.verdict import verdict_of
from trainer.rundir.attempts import REPLACED

# Vertex AI's quota is 60 submissions in a minute for each region; others use it, too.
BURST, MINUTE = 30, 60.0
HOPELESS = frozenset({"user_error", "rejected", "gone"})
SETTLED = frozenset({"succeeded", "cancelled"})


@dataclass(frozen=True)
class Fleet:
    """How many attempts a run wants alive.

    Attributes:
        jobs: how many.
        anchor: how many of them with one of ``anchors``.
        anchors: where those may run, in order.
        across_regions: whether attempts of different regions may train together.
        since: when that was asked for, in Unix seconds; None for since the run was launched.
        renew: attempts to be replaced though they are of a choice that is wanted.
        dear: attempts to be replaced by one of a cheaper choice (launcher.supervision.preference).
        leave: attempts that are to leave the world, whatever they are of.
    """

    jobs: int = 1
    anchor: int = 0
    anchors: tuple[Choice, ...] = ()
    across_regions: bool = False
    since: float | None = None
    renew: frozenset[int] = frozenset()
    dear: frozenset[int] = frozenset()
    leave: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Lack:
    """What is to be sent.

    Attributes:
        anchors: how many anchors.
        others: how many besides.
        cheaper: how many that are to take the place of dear ones.
        instead: for how many of anchors and others an outdated one trains until they do.
    """

    anchors: int
    others: int
    cheaper: int = 0
    instead: int = 0

    @property
    def total(self) -> int:
        """How many are lacking, whatever they cost."""
        return self.anchors + self.others

    def sent(self, spare: float) -> int:
        """How many of them are to be sent, where so many attempts may be spent on a bonus."""
        return self.total if self.total <= spare else self.total - self.instead


def alive(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Returns those of which something may still run."""
    return [attempt for attempt in attempts if not attempt.over]


def outdated(
    fleet: Fleet, choices: Sequence[Choice], attempts: Sequence[Attempt]
) -> frozenset[int]:
    """Returns the attempts that are alive, and are to be replaced or to go."""
    if fleet.since is None:
        return frozenset()
    named = {choice.name for choice in (*choices, *fleet.anchors)}
    told = fleet.renew | fleet.leave
    return frozenset(
        it.attempt for it in alive(attempts) if it.attempt in told or it.choice not in named
    )


def wanted_alive(fleet: Fleet, attempts: Sequence[Attempt]) -> int:
    """Returns how many are wanted alive, those apart that are settled."""
    since = 0.0 if fleet.since is None else fleet.since
    ended = (attempt for attempt in by_end(attempts) if (attempt.ended or 0.0) >= since)
    return max(0, fleet.jobs - sum(verdict_of(attempt) in SETTLED for attempt in ended))


def spare(fleet: Fleet, limits: Limits, attempts: Sequence[Attempt]) -> float:
    """Returns how many attempts may be spent on what the run can do without.

    That is what ``limits.attempts`` leaves beyond as many as are wanted alive; and when some have
    been tried in vain since an attempt last got machines, half of what it left then, less those.
    """
    if limits.attempts is None:
        return math.inf
    sent = [attempt for attempt in attempts if attempt.sent]
    more = limits.attempts - len(sent) - wanted_alive(fleet, attempts)
    since = max((it.started for it in sent if it.started is not None), default=0.0)
    vain = sum(it.over and it.started is None and it.created >= since for it in sent)
    return max(0, min(more, (more + vain) // 2 - vain) if vain else more)


def lack(
    fleet: Fleet,
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    dear: frozenset[int] = frozenset(),
) -> Lack:
    """Returns how many are to be sent, if nothing speaks against it.

    Args:
        fleet: what is wanted.
        choices: where its attempts may run, anchors apart.
        attempts: all there are.
        dear: those that a cheaper one is to take the place of.
    """
    wanted, live = wanted_alive(fleet, attempts), alive(attempts)
    old = outdated(fleet, choices, attempts)
    kept = [it for it in live if it.attempt not in old and it.kind != REPLACED]
    room = 2 * wanted - len(live)
    total = max(0, min(wanted - len(kept), room))
    beside = max(0, len(kept) - wanted)  # these have been sent for dear ones
    cheaper = max(0, min(len(dear) - beside, room - total))
    stay = sum(
        it.started is not None and not it.left and it.attempt not in fleet.leave
        for it in live
        if it.attempt in old
    )
    needed = max(0, min(wanted - len(kept) - stay, total))
    named = {choice.name for choice in fleet.anchors}
    anchored = sum(attempt.choice in named for attempt in kept)
    anchors = min(total, max(0, fleet.anchor - anchored))
    return Lack(anchors, total - anchors, cheaper, total - needed)


def open_choices(
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    regions: frozenset[str],
    others: int,
    since: float = 0.0,
) -> list[Choice]:
    """Returns those that may be tried, in order.

    Args:
        choices: all.
        attempts: those so far.
        regions: the only ones where; any if there is none.
        others: how many are alive beside which it will run.
        since: when they were asked for; what was sent before speaks against none.
    """
    ended = [it for it in by_end(attempts) if it.sent and it.created >= since]
    last = {attempt.choice: attempt for attempt in ended}
    hopeless = {name for name, attempt in last.items() if verdict_of(attempt) in HOPELESS}
    if others:
        hopeless |= {it.choice for it in ended if verdict_of(it) == "unreachable"}
    return [
        choice
        for choice in choices
        if choice.name not in hopeless and (not regions or choice.region in regions)
    ]


def bound_to(
    fleet: Fleet,
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    old: frozenset[int],
) -> frozenset[str]:
    """Returns the region that holds the fleet, because a world can train there; none if none can.

    Of several, that where an attempt has had its machines for longest.

    Args:
        fleet: what is wanted.
        choices: where its attempts may run, anchors apart.
        attempts: all there are.
        old: those that hold nothing: others are to take their place.
    """
    if fleet.across_regions:
        return frozenset()
    workers = {it.name: it.job.slots for it in (*choices, *fleet.anchors)}
    enough = choices[0].job.elastic.min_workers
    there: Counter[str] = Counter()
    stays = (it for it in alive(attempts) if it.attempt not in old)
    for it in sorted(stays, key=lambda it: (it.started or it.created, it.attempt)):
        if it.state == "RUNNING" and not it.left:
            there[it.region] += workers.get(it.choice, enough)
    return frozenset([region for region, count in there.items() if count >= enough][:1])


def stray(
    regions: frozenset[str], attempts: Sequence[Attempt], old: frozenset[int]
) -> frozenset[int]:
    """Returns the attempts to be given up: they are not where the fleet is held.

    Those that are outdated, ``old``, go when they are replaced.
    """
    away = (it for it in alive(attempts) if regions and it.region not in regions and not it.left)
    return frozenset(it.attempt for it in away) - old


def sent_too_fast(attempts: Sequence[Attempt], more: int, now: float) -> float:
    """Returns from when on one more may be sent, in Unix seconds, after ``more`` of this moment."""
    recent = sorted(it.created for it in attempts if it.created > now - MINUTE)
    times = [*recent, *[now] * more]
    return times[-BURST] + MINUTE if len(times) >= BURST else 0.0
