"""Which losses of replicas are one and the same, and which of them no leader has seen. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from launcher.records import EventRecord

# Verdicts on attempts (launcher.supervision.verdict) whose machines were taken.
_TAKEN = frozenset({"stockout", "preempted", "internal"})
_Incarnation = tuple[str, str]  # of a replica


def job_of(member: str) -> int | None:
    """The attempt that a member is of, as its name says in a fleet; None elsewhere."""
    job, slash, _ = member.partition("/")
    return int(job) if slash and job.isdecimal() else None


class Losses:
    """Counts losses.

    Several leaders may speak of one: the one that a VM is lost to, and the one that takes over and
    misses it. And what is lost to a leader may only have gone over to the next, of a higher term.
    When all who could tell are lost together, nobody speaks of it: whoever was there, had no
    notice, and has not come to the next leader when that forms a world, was lost, too.
    """

    def __init__(self) -> None:
        self._plain: list[float] = []  # of a worker, or of a version that does not say whose: when
        self._gone: dict[_Incarnation, tuple[int, float]] = {}  # term, and when
        self._joined: dict[_Incarnation, int] = {}  # the highest term it is in
        self._came: dict[_Incarnation, float] = {}  # when
        self._incarnations: defaultdict[str, set[_Incarnation]] = defaultdict(set)
        self._left: list[tuple[float, str]] = []  # when a replica left as planned: of a version
        # that does not say which incarnation; else that says it, whatever clock was asked
        self._leavers: set[_Incarnation] = set()
        self._ended: list[tuple[float, int | None]] = []  # when an attempt did, and its replicas
        self._formed: list[tuple[int, float, frozenset[str]]] = []  # worlds: term, when, replicas
        self._taken: list[tuple[float, int | None]] = []  # when all machines of one were gone
        self._given_up: set[int | None] = set()  # attempts of a fleet

    def until(self, end: float) -> int:
        """How many there were, up to a time in Unix seconds."""
        gone = [
            at
            for one, (term, at) in self._gone.items()
            if self._joined.get(one, 0) <= term and job_of(one[0]) not in self._given_up
        ]
        return sum(at <= end for at in [*self._plain, *gone, *self._unseen()])

    def lost(self, event: EventRecord) -> None:
        """A leader has lost a member, or a worker of one."""
        if not event.gone or event.member is None or event.incarnation is None:
            self._plain.append(event.time)
            return
        one = event.member, event.incarnation
        term, at = self._gone.get(one, (0, event.time))
        self._gone[one] = max(term, event.term or 0), min(at, event.time)

    def joined(self, event: EventRecord) -> None:
        """A member has come to a leader."""
        if event.member is not None and event.incarnation is not None:
            one = event.member, event.incarnation
            self._incarnations[event.member].add(one)
            self._joined[one] = max(self._joined.get(one, 0), event.term or 0)
            self._came[one] = min(self._came.get(one, math.inf), event.time)

    def left(self, event: EventRecord) -> None:
        """A replica leaves as planned: it has notice, or its machine is not wanted any more."""
        if event.member is None:
            return
        if event.incarnation is not None:
            self._leavers.add((event.member, event.incarnation))
        else:
            self._left.append((event.time, event.member))

    def formed(self, event: EventRecord) -> None:
        """A leader has formed a world, or adopted one."""
        if event.term is not None:
            self._formed.append((event.term, event.time, frozenset(event.members or ())))

    def attempt_over(self, event: EventRecord) -> None:
        """All machines of an attempt are gone: by its end, or because they were taken."""
        over = self._taken if event.verdict in _TAKEN else self._ended
        over.append((event.time, event.attempt))

    def give_up(self, attempt: int) -> None:
        """An attempt of a fleet was given up: that its machines go is no loss."""
        self._given_up.add(attempt)

    def _unseen(self) -> Iterator[float]:
        """When somebody was lost of whom no leader has said so."""
        for one in self._joined:
            term = self._last_term(one)
            told = one in self._gone and self._gone[one][0] >= term
            if told or self._has_left(one) or job_of(one[0]) in self._given_up:
                continue
            missed = [at for later, at, _ in self._formed if later > term]
            missed += [at for at, of in self._taken if at >= self._came[one] and _is_of(one[0], of)]
            if missed:
                yield min(missed)

    def _last_term(self, one: _Incarnation) -> int:
        """The last in which a leader had it: an older version's that adopts a world is silent."""
        came = self._joined[one], self._came[one]
        later = [
            self._joined[other]
            for other in self._incarnations[one[0]]
            if (self._joined[other], self._came[other]) > came
        ]
        until = min(later, default=math.inf)
        worlds = (term for term, _, members in self._formed if one[0] in members and term < until)
        return max(came[0], *worlds, 0)

    def _has_left(self, one: _Incarnation) -> bool:
        if one in self._leavers:
            return True
        came = self._came[one]
        others = (self._came[other] for other in self._incarnations[one[0]])
        until = min((at for at in others if at > came), default=math.inf)
        times = [at for at, who in self._left if who == one[0]]
        times += [at for at, of in self._ended if _is_of(one[0], of)]
        return any(came <= at < until for at in times)


def _is_of(member: str, attempt: int | None) -> bool:
    """Whether a member is of an attempt; only a fleet's are named by theirs."""
    return "/" not in member or member.startswith(f"{attempt}/")
