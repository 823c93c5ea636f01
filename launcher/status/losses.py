"""Which losses of replicas are one and the same. Pure."""

from __future__ import annotations

from launcher.records import EventRecord


class Losses:
    """Counts losses.

    Several leaders may speak of one: the one that a VM is lost to, and the one that takes over and
    misses it. And what is lost to a leader may only have gone over to the next, of a higher term.
    """

    def __init__(self) -> None:
        self._plain = 0  # of a worker, or of a version that does not say whose incarnation
        self._gone: dict[tuple[str, str], int] = {}  # by incarnation: the highest term it went in
        self._joined: dict[tuple[str, str], int] = {}  # by incarnation: the highest term it is in

    @property
    def count(self) -> int:
        """How many there were."""
        return self._plain + sum(
            self._joined.get(one, 0) <= term for one, term in self._gone.items()
        )

    def lost(self, event: EventRecord) -> None:
        """A leader has lost a member, or a worker of one."""
        if not event.gone or event.member is None or event.incarnation is None:
            self._plain += 1
            return
        one = event.member, event.incarnation
        self._gone[one] = max(self._gone.get(one, 0), event.term or 0)

    def joined(self, event: EventRecord) -> None:
        """A member has come to a leader."""
        if event.member is not None and event.incarnation is not None:
            one = event.member, event.incarnation
            self._joined[one] = max(self._joined.get(one, 0), event.term or 0)
