"""The way back from dear machines to cheaper ones while a run trains: make before break, purely.

A run takes a dearer choice when a cheaper one had no machines. It need not stay there until its
machines end: when it has trained on them for ``resubmit.back``, one of a choice that costs less is
sent beside them. If that gets machines and trains, the dear attempt leaves
(launcher.supervision.replacement); if not, the dear one has lost nothing, and the next is sent
after another ``back``, as after any failure (launcher.supervision.choices).

That an attempt is dear is written down once (trainer.rundir.wanted), so all who look after the run
see the same. A choice is dear when it is on demand, and one before it in the job's order is Spot,
unless that is known to cost as much. Anchors are on demand because they are to be: they are not.

What is tried so is a bonus:

- It is never of a dear choice, so dear machines are no more than are wanted, but for those that
  replace others whose timeout is near.
- It is not sent where ``limits.attempts`` would then have less left than the run wants alive
  (launcher.supervision.fleet).
- A fleet of several jobs tries it in its own region only: it would span two until the last of its
  dear jobs is replaced. One job is replaced at once, so it may go anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from launcher.job.fallback import Resubmit
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice
from launcher.supervision.fleet import Fleet, alive, outdated


def cheaper(choices: Sequence[Choice], name: str) -> list[Choice]:
    """Returns what is preferred to the choice of this name and costs less; nothing, mostly.

    They are to be had whether or not the run lacks attempts: their ``after`` does not count.
    """
    at = next((n for n, choice in enumerate(choices) if choice.name == name), None)
    if at is None or choices[at].job.scheduling.strategy == "spot":
        return []
    return [replace(it, after=0.0) for it in choices[:at] if _costs_less(it, choices[at])]


def _costs_less(choice: Choice, dear: Choice) -> bool:
    mine, other = choice.usd_per_hour, dear.usd_per_hour
    spot = choice.job.scheduling.strategy == "spot"
    return spot and (mine is None or other is None or mine < other)


def dear(
    fleet: Fleet, choices: Sequence[Choice], attempts: Sequence[Attempt]
) -> dict[int, list[Choice]]:
    """Returns the attempts on dear machines that something cheaper may replace, with what may.

    Not those that go anyway, and not as many anchors as the fleet has.
    """
    return dict(_dear(fleet, choices, attempts))


def _dear(
    fleet: Fleet, choices: Sequence[Choice], attempts: Sequence[Attempt]
) -> Iterator[tuple[int, list[Choice]]]:
    if all(choice.job.scheduling.strategy == "spot" for choice in choices):
        return
    anchors, named = fleet.anchor, {choice.name for choice in fleet.anchors}
    old = outdated(fleet, choices, attempts)
    for attempt in sorted(alive(attempts), key=lambda it: it.attempt):
        if attempt.attempt in old or attempt.started is None or attempt.left:
            continue
        if attempt.choice in named and anchors:
            anchors -= 1
        elif better := cheaper(choices, attempt.choice):
            yield attempt.attempt, better


def sought(
    fleet: Fleet, choices: Sequence[Choice], attempts: Sequence[Attempt]
) -> dict[int, list[Choice]]:
    """Returns those of them that it is written down of: a cheaper one is to take their place."""
    found = dear(fleet, choices, attempts) if fleet.dear else {}
    return {number: better for number, better in found.items() if number in fleet.dear}


def long_dear(
    fleet: Fleet,
    choices: Sequence[Choice],
    attempts: Sequence[Attempt],
    resubmit: Resubmit,
    now: float,
) -> frozenset[int]:
    """Returns those that it is to be written down of now, in Unix seconds."""
    if resubmit.back is None:
        return frozenset()
    back, found = resubmit.back.total_seconds(), dear(fleet, choices, attempts)
    return frozenset(
        it.attempt
        for it in attempts
        if it.attempt in found
        and it.attempt not in fleet.dear
        and it.started is not None
        and now - it.started >= back
    )


def paced(resubmit: Resubmit) -> Resubmit:
    """Returns the pauses after those that are tried in vain: ``back``, then twice as long."""
    assert resubmit.back is not None
    longest = max(resubmit.back, resubmit.longest)
    return resubmit.model_copy(update={"pause": resubmit.back, "longest": longest})
