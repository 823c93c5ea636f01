"""Which losses of replicas are one and the same. Pure."""

from __future__ import annotations

from launcher.records import EventRecord


class Losses:
    """Counts losses.

    Several leaders may speak of one: the one that a VM is lost to, and the one that takes over and
    misses it. And what is lost to a leader may only have gone over to the next, of a higher term.
    """

    def __init__(self) -> None:
        self._plain: list[float] = []  # of a worker, or of a version that does not say whose: when
        self._gone: dict[tuple[str, str], tuple[int, float]] = {}  # by incarnation: term, and when
        self._joined: dict[tuple[str, str], int] = {}  # by incarnation: the highest term it is in

    def until(self, end: float) -> int:
        """How many there were, up to a time in Unix seconds."""
        gone = [at for one, (term, at) in self._gone.items() if self._joined.get(one, 0) <= term]
        return sum(at <= end for at in [*self._plain, *gone])

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
            self._joined[one] = max(self._joined.get(one, 0), event.term or 0)
