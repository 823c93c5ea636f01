"""Which attempts go because they are not wanted any more, and when: make before break, purely.

What a run is asked to be may change while it goes on (trainer.rundir.wanted). An attempt is
outdated when it is of no choice that is wanted any more, or when its timeout is near. One that is
dear (launcher.supervision.preference) goes the same way, for a cheaper one. Others are sent beside
it (launcher.supervision.fleet), and it stays until they train:

- An outdated attempt is to leave when one that is wanted trains in its place, with all its replicas
  in the newest world.
- Of those that train, the last one stays until another does, whatever has become of the others.
- Where fewer are wanted than are alive, first those go that do not train yet, then the newest;
  anchors last.
- Whoever is to leave does so at a step boundary: the coordinator sees to that. Then, or when that
  has taken LIMIT, it is left as REPLACED, and its CustomJob is cancelled. One that has no machines
  yet is left at once.

That an attempt is replaced is no failure, and nothing rests for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice
from launcher.supervision.fleet import Fleet, alive, outdated, wanted_alive

USUAL_TIMEOUT = timedelta(days=7)  # of a CustomJob that has none of its own
LEAD = timedelta(hours=1)  # before its timeout, from which on an attempt is outdated; half of it
# at the most
LIMIT = 600.0  # seconds to leave the world in: a step may be long


@dataclass(frozen=True)
class Inside:
    """The newest world, as far as it is known.

    Attributes:
        members: how many each attempt has in it.
        trains: whether all of them hold its state.
        leaving: for how many seconds attempts have been known to be told to leave.
    """

    members: Mapping[int, int] = field(default_factory=dict)
    trains: bool = False
    leaving: Mapping[int, float] = field(default_factory=dict)


def retired(
    fleet: Fleet,
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    world: Inside,
    dear: frozenset[int] = frozenset(),
) -> frozenset[int]:
    """Returns the attempts that are to leave now, besides those that are told so already.

    Args:
        fleet: what is wanted.
        choices: where its attempts may run, anchors apart.
        attempts: all there are.
        world: who trains.
        dear: those that a cheaper one is to take the place of.
    """
    if fleet.since is None:
        return frozenset()
    old = outdated(fleet, choices, attempts) | dear
    staying = [it for it in alive(attempts) if not it.left and it.attempt not in fleet.leave]
    current = [it for it in staying if it.attempt not in old]
    enough = {it.name: it.members for it in (*fleet.anchors, *choices)}
    made = [
        it
        for it in current
        if world.trains and world.members.get(it.attempt, 0) >= enough[it.choice]
    ]
    anchors = {it.name for it in fleet.anchors}
    wanted = wanted_alive(fleet, attempts)

    def worth(attempt: Attempt) -> tuple[bool, bool, bool, bool, int]:
        number, started = attempt.attempt, attempt.started is not None
        return attempt in made, number in world.members, started, attempt.choice in anchors, -number

    current.sort(key=worth, reverse=True)
    waiting = [it for it in staying if it.attempt in old]
    waiting.sort(key=worth, reverse=True)
    queued = [it for it in waiting if it.started is None]
    replaced = [it for it in waiting if it.started is not None]
    kept = max(wanted - len(made), 0 if made else 1)
    return frozenset(it.attempt for it in current[max(1, wanted) :] + queued + replaced[kept:])


def gone(fleet: Fleet, attempts: Sequence[Attempt], world: Inside) -> frozenset[int]:
    """Returns the attempts that have left the world as they were told to, or take too long."""
    return frozenset(
        it.attempt
        for it in alive(attempts)
        if it.attempt in fleet.leave
        and not it.left
        and (it.attempt not in world.members or world.leaving.get(it.attempt, 0.0) >= LIMIT)
    )


def due(
    fleet: Fleet, choices: Sequence[Choice], attempts: Sequence[Attempt], now: float
) -> frozenset[int]:
    """Returns the attempts whose timeout is near, in Unix seconds, and that nothing replaces.

    None while as many replace others as may: nothing could be sent for one more, and one that is to
    take another's place would go before it ever trained.
    """
    if len(alive(attempts)) >= 2 * max(1, wanted_alive(fleet, attempts)):
        return frozenset()
    timeouts = {it.name: it.job.timeout or USUAL_TIMEOUT for it in (*fleet.anchors, *choices)}
    old = outdated(fleet, choices, attempts)
    return frozenset(
        it.attempt
        for it in alive(attempts)
        if it.started is not None
        and not it.left
        and it.attempt not in old
        and (timeout := timeouts.get(it.choice)) is not None
        and now - it.started >= (timeout - min(LEAD, timeout / 2)).total_seconds()
    )
