"""A leader whose VM is about to be taken away has another member lead before it leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from trainer.coordinator.leadership import Leadership
from trainer.coordinator.roster import Roster
from trainer.coordinator.server import Streams
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.signals import Drain
from trainer.protocol.world import MemberId

HEIRS = 16  # members that may contend before the lease is stale
LIMIT = 1.5  # seconds in which another coordinator leads, or none will


class Succession:
    """Holds a notice back until somebody else leads, who then hears of it.

    Until somebody has claimed the next term, this leader leads. All others follow the new one when
    they see its claim; the running generation goes on. If nobody claims it in time, or there is
    nobody who stays, this VM leaves like any other.

    Args:
        leadership: what is handed over.
        leader: the member whose VM it is on.
        members: who stays.
        streams: to those who may lead next.
        leave: called with the notice if nobody takes over, with what is left of its time.
        limit: seconds for somebody to take over.
        clock: monotonic seconds.

    Attributes:
        heir: who was asked to lead next.
    """

    def __init__(
        self,
        leadership: Leadership,
        leader: MemberId,
        members: Roster,
        streams: Streams,
        leave: Callable[[Drain], None],
        limit: float = LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heir: MemberId | None = None
        self._leadership = leadership
        self._leader = leader
        self._members = members
        self._streams = streams
        self._leave = leave
        self._limit = limit
        self._clock = clock
        self._notice: Drain | None = None  # held back
        self._since = 0.0  # when it came
        self._looking: asyncio.Task[None] | None = None  # whether the heir leads

    def heirs(self) -> list[MemberId]:
        """Those who may contend early; the leader shows them, and no others, that it lives."""
        return self._streams.first(HEIRS, but=self._leader)

    def begin(self, notice: Drain) -> None:
        """This leader's VM is about to be taken away."""
        if self._notice is None:
            self._notice, self._since = notice, self._clock()
            asyncio.get_running_loop().call_later(self._limit, self._give_up)
            self._ask()
        if self.heir is not None and self._looking is None:
            self._looking = asyncio.create_task(self._leadership.hand_over())

    def review(self) -> None:
        """Members have changed: asks another one if the heir is about to leave, too."""
        heir = self.heir
        if self._notice is not None and heir is not None and not self._members.stays(heir):
            self._ask()

    def close(self) -> None:
        """Looks for a new leader no longer."""
        if self._looking is not None:
            self._looking.cancel()

    def _ask(self) -> None:
        self.heir = next((one for one in self.heirs() if self._members.stays(one)), None)
        if self.heir is None:
            self._give_up()
        else:
            self._streams.send(pb.FromCoordinator(succeed=pb.Succeed()), [self.heir])

    def _give_up(self) -> None:
        notice, self._notice = self._notice, None
        if notice is not None and self._leadership.holds():
            left = notice.deadline - (self._clock() - self._since)
            self._leave(replace(notice, deadline=max(0.0, left)))
