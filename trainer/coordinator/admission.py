"""Who may be in a world with whom: members of several jobs show it to each other first. Pure.

Replicas of one CustomJob reach each other: Vertex AI sees to that. Those of two reach each other
only through a network of the user's, if at all. So before a member is admitted, it and a member of
every other job that has been admitted connect to each other, both ways, at the addresses that a
world would use, each with the certificate of its attempt; the agents do it
(trainer.agent.proof). Who has trained in a world has shown it. Who cannot show it stays outside,
and is asked again every AGAIN seconds: no world is ever broken by it.

A member is asked as soon as it comes, so it has mostly been shown when its workers are warm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.coordinator.member import NEVER
from trainer.protocol.signals import Command, Orders, Prove, Proved
from trainer.protocol.world import MemberId

ANSWER = 30.0  # seconds for both to answer; an agent tries for a third of that
AGAIN = 10.0  # seconds after a failure
LOOK = 1.0  # seconds between two looks at who has to be asked


@dataclass
class Trial:
    """A member and one of another job try to connect to each other.

    Attributes:
        peer: that one.
        since: when they were asked, in seconds.
        shown: what those have said who have reached the other.
    """

    peer: MemberId
    since: float
    shown: dict[MemberId, Proved] = field(default_factory=dict)


class Admission:
    """Asks for proofs, and knows who has given them. All times are membership's, in seconds."""

    def __init__(self) -> None:
        self._here: dict[MemberId, None] = {}  # who can be asked, in the order in which they came
        self._outside: dict[MemberId, None] = {}  # those of them who are not admitted
        self._admitted: dict[str, set[MemberId]] = {}  # by job
        self._reached: dict[MemberId, set[str]] = {}  # jobs with which it has connected both ways
        self._trials: dict[tuple[MemberId, str], Trial] = {}  # by who is outside, and the other job
        self._failed: dict[tuple[MemberId, str], float] = {}  # when last
        self._told: set[str] = set()  # jobs of which it is on record how they connect to another
        self._turn = 0
        self._looked = NEVER

    def join(self, member: MemberId, now: float) -> list[Command]:
        """A member has come: asks it, and one of every other job, to connect to each other."""
        out = Orders()
        self._here[member] = None
        if self._is_inside(member):
            return out
        self._outside[member] = None
        self._reached.setdefault(member, set())
        self._ask(member, self._jobs(), now, out)
        return out

    def adopt(self, members: Iterable[MemberId]) -> None:
        """These form a world that an earlier leader has made, whether they have come or not."""
        for member in members:
            self._let_in(member)

    def leave(self, member: MemberId) -> None:
        """A member is gone."""
        self._here.pop(member, None)
        self._outside.pop(member, None)
        self._reached.pop(member, None)
        inside = self._admitted.get(member.job, set())
        inside.discard(member)
        if not inside:
            self._admitted.pop(member.job, None)
        for key in [key for key, it in self._trials.items() if member in (key[0], it.peer)]:
            del self._trials[key]
        for key in [key for key in self._failed if key[0] == member]:
            del self._failed[key]

    def admits(self, member: MemberId) -> bool:
        """Whether a member may be in the next world; if so, from now on."""
        if self.lacking(member):
            return False
        self._let_in(member)
        return True

    def lacking(self, member: MemberId) -> set[str]:
        """The jobs that a member has yet to reach, and to be reached by, to be admitted."""
        if self._is_inside(member):
            return set()
        return self._admitted.keys() - {member.job} - self._reached.get(member, set())

    def take(self, proved: Proved, now: float) -> list[Command]:
        """A member has tried to connect to another."""
        out = Orders()
        member, peer = proved.member, proved.peer
        for outsider, other in ((member, peer), (peer, member)):
            trial = self._trials.get((outsider, other.job))
            if trial is None or trial.peer != other:
                continue
            if proved.failed:
                self._fail(outsider, trial, proved, now, out)
                continue
            trial.shown[member] = proved
            if len(trial.shown) == 2:
                self._succeed(outsider, trial, out)
        return out

    def look(self, now: float) -> list[Command]:
        """Time has passed: asks whoever is outside, again if need be."""
        out = Orders()
        if now - self._looked < LOOK:
            return out
        self._looked = now
        for (outsider, _), trial in list(self._trials.items()):
            if now - trial.since > ANSWER:
                silent = trial.peer if outsider in trial.shown else outsider
                other = outsider if silent == trial.peer else trial.peer
                self._fail(outsider, trial, Proved(silent, other, "no answer"), now, out)
        jobs = self._jobs()
        for member in self._outside:
            self._ask(member, jobs, now, out)
        return out

    def _is_inside(self, member: MemberId) -> bool:
        return member in self._admitted.get(member.job, ())

    def _let_in(self, member: MemberId) -> None:
        self._outside.pop(member, None)
        self._reached.setdefault(member, set())
        self._admitted.setdefault(member.job, set()).add(member)

    def _jobs(self) -> dict[str, list[MemberId]]:
        """Who can be asked, by job."""
        jobs: dict[str, list[MemberId]] = {}
        for member in self._here:
            jobs.setdefault(member.job, []).append(member)
        return jobs

    def _ask(
        self, member: MemberId, jobs: dict[str, list[MemberId]], now: float, out: Orders
    ) -> None:
        for job, there in jobs.items():
            key = member, job
            known = job == member.job or job in self._reached[member] or key in self._trials
            if known or now - self._failed.get(key, now - AGAIN) < AGAIN:
                continue
            self._turn += 1  # not always the same: each can answer some at a time
            peer = there[self._turn % len(there)]
            self._trials[key] = Trial(peer, now)
            out += [Prove(member, peer), Prove(peer, member)]

    def _succeed(self, outsider: MemberId, trial: Trial, out: Orders) -> None:
        peer = trial.peer
        del self._trials[outsider, peer.job]
        self._reached[outsider].add(peer.job)
        self._reached[peer].add(outsider.job)
        if outsider.job not in self._told:
            self._told |= {outsider.job, peer.job}
            both = trial.shown.values()
            out.emit(
                "connected",
                member=outsider.replica,
                peer=peer.replica,
                latency=max(one.latency for one in both),
                bandwidth=min(one.bandwidth for one in both),
            )

    def _fail(
        self, outsider: MemberId, trial: Trial, proved: Proved, now: float, out: Orders
    ) -> None:
        key, peer = (outsider, trial.peer.job), trial.peer
        del self._trials[key]
        if key not in self._failed:  # once: nothing has changed when it fails again
            own, its = proved.address, proved.peer_address
            if proved.member == peer:
                own, its = its, own
            out.emit(
                "unreachable",
                member=outsider.replica,
                incarnation=outsider.incarnation,
                peer=peer.replica,
                address=own or None,
                peer_address=its or None,
                reason=f"{proved.member.replica} does not reach {proved.peer.replica}: "
                f"{proved.failed}",
            )
        self._failed[key] = now
