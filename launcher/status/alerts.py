"""What somebody wants to hear of a run that goes on, besides that it stands still. Pure.

===========  ====================================================================================
news         when it is told of
===========  ====================================================================================
straggler    a worker has been slower than the others for STAYS seconds
unattended   somebody looks after the run again; while nobody did, nobody could tell
checkpoint   the run trains, and no checkpoint has been written for several times the interval
goodput      it was below a bound over the last hour
cost         the run has cost more than a sum, by estimate
===========  ====================================================================================

Each is told of once, with what can be done about it, and again when it is over; cost never is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.job.durations import Steps
from launcher.job.job import Job
from launcher.records import EventRecord
from launcher.status.accounts import Ledger
from launcher.status.history import History
from launcher.status.ledger import Timeline
from launcher.words import at_clock, count, one_line, slow_in_words, span

STAYS = 300.0  # seconds
HOUR = 3600.0
GOODPUT_EVERY = 300.0  # seconds between two looks at goodput: a ledger is added up for each
ENOUGH = 0.02  # by which goodput is above its bound when it is high enough again
LOSSES = 3  # accounts that are named
RECENT = 60.0  # seconds since the newest step for which a run trains
_LOST = {
    "absent": "VMs that were not there",
    "starting": "starting",
    "communication": "communication",
    "data_wait": "waiting for data",
    "waiting": "waiting for the slowest",
    "re_forming": "re-forming",
    "checkpoint": "checkpoints",
    "repeated": "lost work",
    "evaluation": "evaluation",
    "stopped": "standing still",
}

Message = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """When to tell.

    Attributes:
        seconds, steps: from one checkpoint to the next; None for the one that does not count.
        missed: so many times that, without any, is too long.
        goodput: the bound; None for none.
        usd: the sum; None for none.
    """

    seconds: float | None = None
    steps: int | None = None
    missed: int = 3
    goodput: float | None = None
    usd: float | None = None

    @classmethod
    def of(cls, job: Job) -> Terms:
        """Those of a job; a torchrun script writes its checkpoints itself."""
        every, notify = job.checkpoint.every, job.notify
        if notify is None:
            return cls()
        seconds, steps = None, None
        if isinstance(every, Steps):
            steps = every.count
        else:
            seconds = every.total_seconds()
        return cls(
            seconds=None if job.torchrun else seconds,
            steps=None if job.torchrun else steps,
            missed=notify.checkpoints_missed,
            goodput=notify.goodput_below,
            usd=None if notify.cost_past is None else notify.cost_past.usd,
        )


class Alerts:
    """Knows what was told of, and what is to be told. All times are Unix seconds.

    Args:
        terms: when to tell.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._stragglers: dict[str, EventRecord] = {}  # those that were told of, by replica
        self._began: float | None = None  # when this one looked first
        self._attended = -math.inf  # when it was told last that somebody looks after it again
        self._unsaved: float | None = None  # since when, if that was told of
        self._low: float | None = None  # when goodput was told to be low
        self._reckoned = 0.0  # when it was looked at last
        self._dear = False

    def look(self, history: History, usd: float | None, now: float) -> list[Message]:
        """Returns what is to be told at ``now``; ``usd`` is what the run has cost, if known."""
        return [
            *self._of_stragglers(history, now),
            *self._of_attendants(history, now),
            *self._of_checkpoints(history, now),
            *self._of_goodput(history, now),
            *self._of_cost(usd),
        ]

    def _of_stragglers(self, history: History, now: float) -> Iterator[Message]:
        slow = {one.member or "": one for one in history.stragglers}
        for member, one in slow.items():
            if member in self._stragglers or now - one.time < STAYS:
                continue
            self._stragglers[member] = one
            said = slow_in_words(member, one.rank or 0, one.ratio or 0.0)
            why = one_line(one.reason or "")
            text = (
                f"has a straggler: {said}, for {span(now - one.time)} by now ({why}); "
                "elastic.replace_stragglers lets its machine be replaced"
            )
            told = {"member": member, "rank": one.rank, "ratio": one.ratio, "reason": why}
            yield {"text": text, "news": "straggler", "over": False, "since": one.time, **told}
        for member in self._stragglers.keys() - slow.keys():
            since = self._stragglers.pop(member).time
            text = f"has no straggler at {member} any more"
            told = {"member": member, "since": since, "until": now}
            yield {"text": text, "news": "straggler", "over": True, **told}

    def _of_attendants(self, history: History, now: float) -> Iterator[Message]:
        if self._began is None:
            self._began = now
        told = history.newest_of.get("unattended")
        # What the leader has told before this one looked, somebody else has passed on.
        if told is None or not told.over or told.time <= max(self._attended, self._began - RECENT):
            return
        self._attended = told.time
        nobody = span(told.seconds or 0.0)
        text = (
            f"was looked after by nobody for {nobody}: no attempt would have followed, and no "
            "limit was kept; controller in the job file has a machine of Vertex AI's do it"
        )
        since = told.time - (told.seconds or 0.0)
        yield {"text": text, "news": "unattended", "over": True, "since": since, "until": told.time}

    def _of_checkpoints(self, history: History, now: float) -> Iterator[Message]:
        newest, failed = history.saved, history.checkpoint(now)["reason"]
        begins = [one.began_at for one in history.in_order if one.began_at is not None]
        began = min(begins, default=now)
        at, step = newest or (began, 0)
        if self._unsaved is not None and newest is not None and at > self._unsaved:
            since, self._unsaved = self._unsaved, None
            text = f"has a checkpoint again, of step {step:,}"
            yield {"text": text, "news": "checkpoint", "over": True, "since": since, "until": at}
        steps = history.step - step
        trains = now - history.stepped_at < RECENT and steps > 0
        if self._unsaved is not None or not trains or not self._is_late(now - at, steps):
            return
        self._unsaved = at
        why = f" ({one_line(str(failed))})" if failed else ""
        last = f"since that of step {step:,}, at {at_clock(at)}" if newest else "at all"
        lost = count(steps, "step")
        text = (
            f"has no checkpoint {last}{why}: {lost} would be lost with all its machines; look at "
            "the store's permissions and room, and at swell logs"
        )
        told = {"step": step, "since": at, "reason": failed}
        yield {"text": text, "news": "checkpoint", "over": False, **told}

    def _is_late(self, seconds: float, steps: int) -> bool:
        terms = self._terms
        if terms.steps is not None:
            return steps > terms.missed * terms.steps
        return terms.seconds is not None and seconds > max(terms.missed * terms.seconds, RECENT)

    def _of_goodput(self, history: History, now: float) -> Iterator[Message]:
        bound = self._terms.goodput
        if bound is None or now - self._reckoned < GOODPUT_EVERY:
            return
        self._reckoned = now
        timeline = Timeline.of(history, now)
        if timeline is None or timeline.end - timeline.start < HOUR:
            return
        ledger = timeline.between(timeline.end - HOUR, timeline.end)
        goodput = ledger.goodput
        if goodput is None:
            return
        told: Message = {"news": "goodput", "goodput": round(goodput, 4), "below": bound}
        if self._low is None and goodput < bound:
            self._low = now
            text = (
                f"has had a goodput of {goodput:.0%} over the last hour, below {bound:.0%}: "
                f"{losses_in_words(ledger)}; swell status and docs/hangs.md say more"
            )
            yield {"text": text, "over": False, "since": now - HOUR, **told}
        elif self._low is not None and goodput >= min(bound + ENOUGH, 1.0):
            since, self._low = self._low, None
            text = f"has had a goodput of {goodput:.0%} over the last hour"
            yield {"text": text, "over": True, "since": since, "until": now, **told}

    def _of_cost(self, usd: float | None) -> Iterator[Message]:
        most = self._terms.usd
        if most is None or usd is None or usd < most or self._dear:
            return
        self._dear = True
        text = (
            f"has cost {usd:,.2f} USD by estimate, past {most:,.2f} USD, and goes on; swell cancel "
            "ends it, and limits.cost would end it by itself"
        )
        yield {"text": text, "news": "cost", "over": False, "usd": round(usd, 2), "past": most}


def losses_in_words(ledger: Ledger) -> str:
    """What most of the time was lost to, of the VMs that were there."""
    lost = [(seconds, name) for name, seconds in ledger.seconds.items() if name in _LOST]
    there = max(ledger.there, 1e-9)
    most = sorted(((s, n) for s, n in lost if n != "absent" and s > 0), reverse=True)[:LOSSES]
    return ", ".join(f"{_LOST[name]} {seconds / there:.0%}" for seconds, name in most)
