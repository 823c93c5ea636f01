"""Why nothing happens: what a run waits for, since when, and until when. Pure.

In every phase membership waits for somebody, or for a time to pass. Most of it is over at once, and
not worth a word; ``Telling`` says what is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.coordinator.admission import Admission
from trainer.coordinator.limits import Limits, Timeouts
from trainer.coordinator.liveness import AWAY, Pace, forming_limit
from trainer.coordinator.member import Member, Phase, State, slots_in
from trainer.coordinator.roster import Roster
from trainer.coordinator.team import Team

FIRST, GROWS = 10.0, 3.0  # seconds after which a wait is told of, and how many times that the next
USUAL = 10.0  # times its usual length that a step may take before anybody says so
NAMED = 3  # members that are named at the most


@dataclass(frozen=True)
class Standing:
    """Where membership stands. Times are those of its clock, in seconds.

    Attributes:
        phase, members, team, generation, steps, pace, limits, timeouts: see Membership.
        admission: who of several jobs has shown that it reaches the others.
        formed_at: when the world ran, or this leader began.
        forming_since: when it began to form, or somebody has last received some of the state.
        stopping_since: when it was asked to leave.
        aborted: whether it was broken off.
    """

    phase: Phase
    members: Roster
    team: Team
    generation: int
    steps: int
    pace: Pace
    admission: Admission
    limits: Limits
    timeouts: Timeouts
    formed_at: float
    forming_since: float
    stopping_since: float
    aborted: bool


@dataclass(frozen=True)
class Wait:
    """What is waited for.

    Attributes:
        what: in words, such as "workerpool1-2 to begin generation 3".
        since: when that began, in seconds of membership's clock.
        until: when it is over, whatever comes; infinite if it may last.
        then: what happens at that time, in words.
    """

    what: str
    since: float
    until: float = math.inf
    then: str = ""


class Telling:
    """Says when a wait is worth a word: after some seconds, and then ever more seldom."""

    def __init__(self) -> None:
        self._since = -math.inf
        self._seconds = 0.0  # for which that had lasted when it was told of

    def is_due(self, wait: Wait, now: float) -> bool:
        """Whether ``wait`` is to be told of now. It counts as told then."""
        seconds = now - wait.since
        if seconds < (GROWS * self._seconds if wait.since == self._since else FIRST):
            return False
        self._since, self._seconds = wait.since, seconds
        return True


def explain(at: Standing, now: float) -> Wait | None:
    """What is waited for at a time, in seconds; None if everything takes its usual course."""
    away = next((one for one in at.members.values() if one.away), None)
    if away is not None and at.phase is not Phase.ENDED:
        what = f"{away.id.replica}, which alone has the state, to connect again"
        return Wait(what, away.heard, away.heard + AWAY, "others go on from a checkpoint")
    match at.phase:
        case Phase.WAITING:
            return _for_members(at)
        case Phase.FORMING:
            return _for_start(at)
        case Phase.RUNNING:
            return _for_end(at) if at.team.ends else _for_step(at, now)
        case Phase.STOPPING:
            return _for_leave(at)
        case _:
            return None


def _for_members(at: Standing) -> Wait:
    others = _others(at)
    there, least = at.members.there, at.limits.min_workers
    began = at.formed_at if at.generation == 0 else at.stopping_since
    if there < least:
        return Wait(f"{_ready(there)}, and at least {least} must be{others}", began)
    chosen, enough_at = slots_in(at.members.chosen()), at.members.enough_at
    if chosen < least:
        wanted = " or ".join(map(str, at.limits.sizes or [least]))
        return Wait(f"a world of {wanted} workers; {_ready(there)}{others}", began)
    if at.generation == 0 and enough_at is not None:
        what = f"{there} of {at.members.expected} slots are ready{others}"
        until = enough_at + at.limits.start_wait
        return Wait(what, enough_at, until, f"the run begins with {chosen}")
    return Wait(f"other machines; {_ready(there)}{others}", began)


def _others(at: Standing) -> str:
    """Who is there and not ready yet, and why."""
    joining = [one for one in at.members.values() if one.state is State.JOINING]
    said = ""
    if loading := [one for one in joining if not one.warm]:
        said += f"; {_names(loading)} load{'s' * (len(loading) == 1)} the program"
    lacking = {one.id: at.admission.lacking(one.id) for one in joining if one.warm}
    if jobs := set().union(*lacking.values()):
        apart = _names([one for one in joining if lacking.get(one.id)])
        attempts = " and ".join(sorted(jobs, key=lambda job: (len(job), job)))
        those = f"attempt{'s' * (len(jobs) > 1)} {attempts}"
        said += f"; {apart} and {those} have yet to show that they reach each other"
    return said


def _for_start(at: Standing) -> Wait:
    late = [one for one in at.team.values() if not one.started]
    what = f"{_names(late)} to begin generation {at.generation}"
    if received := sum(one.received for one in late):
        what += f"; {received / 2**20:,.0f} MiB of the state have come"
    until = at.forming_since + forming_limit(at.team.values(), at.timeouts)
    return Wait(what, at.forming_since, until, "another world forms")


def _for_step(at: Standing, now: float) -> Wait | None:
    since, pace = at.pace.progress_at, at.pace.seconds
    if now - since < USUAL * pace or math.isinf(at.timeouts.stall):  # nobody tells its steps
        return None
    usual = f"the last ones took {pace:.2g} s each" if pace else "no step is measured yet"
    alone = at.team.slots == 1
    lives = "its only worker lives" if alone else f"all {at.team.slots} workers live"
    then = "it is told once more, and the wait goes on" if alone else "another world forms"
    what = f"step {at.steps + 1}; {usual}, and {lives}"
    return Wait(what, since, since + at.timeouts.stall, then)


def _for_end(at: Standing) -> Wait:
    """For the script to end on all machines, as it has on one."""
    return Wait(f"the script to end on {_names(at.team.late)}, too", at.pace.progress_at)


def _for_leave(at: Standing) -> Wait | None:
    late = [one for one in at.team.values() if not one.stopped]
    if late:
        what, since = f"{_names(late)} to leave generation {at.generation}", at.stopping_since
        if at.aborted:
            return Wait(what, since, since + at.timeouts.stall, "their workers are replaced")
        return Wait(what, since, since + at.timeouts.pause, "the generation is broken off")
    spares = [one for one in at.team.values() if math.isfinite(one.expected_until)]
    if not spares:
        return None
    until = max(one.expected_until for one in spares)
    return Wait(f"the spare worker of {_names(spares)}", at.stopping_since, until, "others go on")


def _ready(slots: int) -> str:
    return "1 slot is ready" if slots == 1 else f"{slots} slots are ready"


def _names(members: Sequence[Member]) -> str:
    names = sorted(one.id.replica for one in members)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
