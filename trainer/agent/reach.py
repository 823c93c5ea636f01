"""Whether this agent reaches the leaders that it is to follow. Pure.

Leaders of its own job it does: Vertex AI sees to that. Those of other jobs of a fleet it may not
(trainer.coordinator.admission), and then nobody hears of it but by the run directory. It is an
outsider until it has reached one. An outsider must not lead as others may: those who train could
be out of its reach. So it contends only when nobody has renewed a claim for OUTSIDE seconds, long
after any of them would have, or when the run goes on without all other jobs.
"""

from __future__ import annotations

from trainer.protocol.lease import Claim

LATE = 5.0  # seconds in which a leader that lives is reached
OUTSIDE = 30.0


class Reach:
    """What is known of it. All times are in seconds of one monotonic clock.

    Args:
        attempt: this agent's.
    """

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._reached = False  # a leader of another job, ever
        self._first: Claim | None = None  # of the newest leader, as first seen
        self._since = 0.0
        self._last: tuple[int, int] | None = None
        self._moved_at = 0.0  # when a claim was last seen renewed
        self._told = False
        self.why = "no answer"  # it could not connect when it last tried

    def connected(self, claim: Claim) -> None:
        """The leader of a claim was reached."""
        if claim.attempt != self._attempt:
            self._reached = True

    def look(self, claim: Claim, now: float) -> bool:
        """Takes in the newest claim. Returns, once for each leader, whether it is out of reach."""
        if self._first is None or self._first.term != claim.term:
            self._first, self._since, self._told = claim, now, False
        if (claim.term, claim.counter) != self._last:
            self._last, self._moved_at = (claim.term, claim.counter), now
        renewed = claim.counter > self._first.counter
        lives = renewed and now - self._moved_at <= LATE
        late = self.outside and lives and now - self._since > LATE and not self._told
        self._told |= late
        return late

    @property
    def outside(self) -> bool:
        """Whether it is an outsider, as far as it knows."""
        other = self._first is not None and self._first.attempt != self._attempt
        return other and not self._reached

    def may_contend(self, now: float) -> bool:
        """Whether it may contend for the lead, if that is due."""
        return not self.outside or now - self._moved_at > OUTSIDE
