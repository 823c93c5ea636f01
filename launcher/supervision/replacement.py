"""Which attempts go because they are not wanted any more, and when: make before break, purely.

What a run is asked to be may change while it goes on (trainer.rundir.wanted). An attempt is
outdated when it is of no choice that is wanted any more, or when its timeout is near. Others are
sent beside it (launcher.supervision.fleet), and it stays until they train:

- An outdated attempt goes when one that is wanted trains in its place, with all its replicas in
  the newest world. One that has no machines yet goes at once.
- Of those that train, the last one stays until another does, whatever has become of the others.
- Where fewer are wanted than are alive, first those go that do not train yet, then the newest;
  anchors last.

Whoever goes is left as REPLACED: its CustomJob is cancelled, its VMs get notice, and its workers
leave the world at a step boundary. That is no failure, and nothing rests for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice
from launcher.supervision.fleet import Fleet, alive, outdated, wanted_alive

USUAL_TIMEOUT = timedelta(days=7)  # of a CustomJob that has none of its own
LEAD = timedelta(hours=1)  # before its timeout, from which on an attempt is outdated; half of it
# at the most


def dismissed(
    fleet: Fleet,
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    inside: Mapping[int, int],
) -> dict[int, str]:
    """Returns the attempts that are to go now, each with the reason.

    Args:
        fleet: what is wanted.
        choices: where its attempts may run, anchors apart.
        attempts: all there are.
        inside: how many members of each are in the newest world.
    """
    if fleet.since is None:
        return {}
    old = outdated(fleet, choices, attempts)
    staying = [it for it in alive(attempts) if not it.left]
    current = [it for it in staying if it.attempt not in old]
    members = {it.name: it.members for it in (*fleet.anchors, *choices)}
    made = [it for it in current if inside.get(it.attempt, 0) >= members[it.choice]]
    anchors = {it.name for it in fleet.anchors}
    wanted = wanted_alive(fleet, attempts)

    def worth(attempt: Attempt) -> tuple[bool, bool, bool, bool, int]:
        number, started = attempt.attempt, attempt.started is not None
        return attempt in made, number in inside, started, attempt.choice in anchors, -number

    fewer = "1 job is wanted" if fleet.jobs == 1 else f"{fleet.jobs} jobs are wanted"
    by_worth = sorted(current, key=worth, reverse=True)
    going = {it.attempt: fewer for it in by_worth[max(1, wanted) :]}
    replaced = []
    for attempt in sorted((it for it in staying if it.attempt in old), key=worth, reverse=True):
        if attempt.started is None and attempt.job is not None:
            going[attempt.attempt] = "another is wanted, and it has no machines yet"
        else:
            replaced.append(attempt)
    for attempt in replaced[max(wanted - len(made), 0 if made else 1) :]:
        going[attempt.attempt] = "another trains in its place" if made else fewer
    return going


def due(
    fleet: Fleet, choices: Sequence[Choice], attempts: Sequence[Attempt], now: float
) -> frozenset[int]:
    """Returns the attempts whose timeout is near, in Unix seconds, and that nothing replaces."""
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
