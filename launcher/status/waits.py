"""What a run waits for, since when and until when: as its leader says, or before it has one. Pure.

A leader says it for as long as it lasts (trainer.coordinator.explanation). While nobody leads, the
records of the attempts tell how far it is: nothing is sent, the API has not taken it, no VM exists,
or there are VMs and none of their agents leads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from launcher.words import wait_in_words
from trainer.rundir.attempts import ENDED

FIRST, GROWS = 10.0, 3.0  # seconds after which a wait is told of, and how many times that the next


@dataclass(frozen=True)
class Wait:
    """What a run waits for. Times are Unix seconds.

    Attributes:
        what: in words.
        since: when that began.
        until: when it is over, whatever comes; infinite if it may last.
        then: what comes at that time, in words.
        advice: what to do, for who looks on and does not launch it; "" for nothing.
    """

    what: str
    since: float
    until: float = math.inf
    then: str | None = None
    advice: str = ""

    def in_words(self, now: float, advised: bool = True) -> str:
        """Says so at a time, in Unix seconds; ``advised``, with what to do."""
        left = self.until - now if math.isfinite(self.until) else None
        what = f"{self.what}; {self.advice}" if advised and self.advice else self.what
        return wait_in_words(what, max(0.0, now - self.since), left, self.then)


class Telling:
    """Says when a wait is worth a line: after some seconds, and then ever more seldom."""

    def __init__(self) -> None:
        self._told: tuple[str, float] = "", 0.0  # what was told of, and how long it had lasted

    def is_due(self, wait: Wait, now: float) -> bool:
        """Whether ``wait`` is to be told of at a time, in Unix seconds. It counts as told then."""
        what, lasted = self._told
        seconds = now - wait.since
        if seconds < (GROWS * lasted if wait.what == what else FIRST):
            return False
        self._told = wait.what, seconds
        return True


def without_leader(
    attempts: Iterable[dict[str, Any]],
    led: Collection[int | None],
    due: Wait | None,
    created: float,
) -> Wait | None:
    """What a run waits for that no leader looks after; None if one does.

    Args:
        attempts: the run's, in order.
        led: the numbers of those in which somebody has led; None among them is any.
        due: the next attempt, if the launcher waits before it sends that.
        created: when the run was.
    """
    known = list(attempts)
    live = [it for it in known if it["state"] not in ENDED and not it.get("left")]
    if any(it["attempt"] in led or None in led for it in live) or (led and not known):
        return None
    if not live:
        what = f"the launch, which has not sent attempt {len(known) + 1} yet"
        since = max([created, *(_ended(it) for it in known)])
        return due or Wait(what, since, advice="swell attach RUN, if it is gone")
    up = [it for it in live if it["state"] == "RUNNING"]
    sent = [it for it in live if it.get("job")]
    first = (up or sent or live)[0]
    number, region = first["attempt"], first.get("region") or "its region"
    created = first.get("created") or created
    if up:
        what = f"a leader: attempt {number} has its VMs, and none of their agents leads yet"
        return Wait(f"{what}; swell logs RUN says what they do", first.get("started") or created)
    if sent:
        state = str(first["state"]).lower()
        vms = "its VMs are not all there" if state == "pending" else "no VM of it exists"
        what = f"machines for attempt {number} in {region}: its CustomJob is {state}, {vms} yet"
        return Wait(what, first.get("submitted") or created)
    return Wait(f"the API in {region} to take attempt {number}: no VM of it exists yet", created)


def _ended(attempt: dict[str, Any]) -> float:
    return float(attempt.get("ended") or 0.0)
