"""The lease of one leader, from the claim of its term to its end.

See ``trainer.protocol.lease`` for the protocol that makes this safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from trainer.coordinator.limits import Limits
from trainer.protocol.lease import Claim, create_claim, last_announced, newest_term, renew_claim
from trainer.rundir.directory import RunDirectory

ASK_AGAIN = 0.1  # seconds, of a store that does not answer
LOOK_FOR_SUCCESSOR = 0.05  # seconds


class Leadership:
    """A term that is led, for as long as its lease holds. Made by ``claim``.

    Args:
        run_dir: where the lease is.
        limits: how long it holds, and how often it is renewed.
        claim: what was claimed.
        since: when that began, by ``clock``.
        clock: monotonic seconds.

    Attributes:
        over: set when it ends, for whatever reason; it never begins again.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        limits: Limits,
        claim: Claim,
        since: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.over = asyncio.Event()
        self._run_dir = run_dir
        self._limits = limits
        self._claim = claim
        self._renewed = since  # when the newest renewal that succeeded began
        self._clock = clock
        self._renewing = asyncio.Lock()

    @classmethod
    async def claim(
        cls,
        run_dir: RunDirectory,
        limits: Limits,
        claim: Claim,
        clock: Callable[[], float] = time.monotonic,
    ) -> Leadership | None:
        """Claims a term, and learns what earlier leaders announced.

        Returns None if somebody else has the term, or the store does not say in time what was
        announced. Raises OSError if it does not say whose the term is.
        """
        leadership = cls(run_dir, limits, claim, clock(), clock)
        if not await asyncio.to_thread(create_claim, run_dir, claim):
            return None
        while leadership.holds():
            with suppress(OSError):
                announced = await asyncio.to_thread(last_announced, run_dir, claim.term)
                newest = max(claim.generation, announced)
                leadership._claim = replace(claim, generation=newest)
                return leadership
            await asyncio.sleep(ASK_AGAIN)
        return None

    @property
    def term(self) -> int:
        """Its number."""
        return self._claim.term

    @property
    def generation(self) -> int:
        """The newest that has been announced, by this leader or an earlier one."""
        return self._claim.generation

    def holds(self) -> bool:
        """Whether nobody can have found this leader's claim stale.

        Once that is not so, it is over: the leader would miss what happens meanwhile.
        """
        if self._clock() - self._renewed >= self._limits.lease_timeout:
            self.step_down()
        return not self.over.is_set()

    async def keep(self, generation: Callable[[], int]) -> None:
        """Renews the lease until it is over.

        Args:
            generation: returns the newest that is known, which a renewal announces.
        """
        while self.holds():
            await asyncio.sleep(self._limits.lease_renew)
            if self.holds():
                with suppress(OSError):  # a store that is away for a moment; the next try may do
                    await self._renew(generation())

    async def announce(self, generation: int) -> bool:
        """Announces a generation that is to form, however often the store must be asked.

        Returns False when it must not form: somebody else leads, or may.
        """
        while self.holds():
            with suppress(OSError):  # until the store says, this one may have been deposed
                return await self._renew(generation)
            await asyncio.sleep(ASK_AGAIN)
        return False

    async def _renew(self, generation: int) -> bool:
        async with self._renewing:
            began = self._clock()
            newest = max(generation, self._claim.generation)
            claim = replace(self._claim, generation=newest, counter=self._claim.counter + 1)
            self._claim = claim
            if await asyncio.to_thread(renew_claim, self._run_dir, claim):
                self._renewed = began
            else:
                self.step_down()
        return self.holds()

    async def hand_over(self) -> None:
        """Waits until somebody has claimed a later term, or this one is over for another reason."""
        while self.holds():
            await asyncio.sleep(LOOK_FOR_SUCCESSOR)
            with suppress(OSError):
                if await asyncio.to_thread(self.is_superseded):
                    self.step_down()

    def is_superseded(self) -> bool:
        """Whether a later term has begun. Blocks; raises OSError when the store does not say."""
        return newest_term(self._run_dir) > self.term

    def step_down(self) -> None:
        """Somebody else leads, or may, or is to."""
        self.over.set()

    async def resign(self) -> None:
        """Steps down and says so: whoever sees it may contend at once.

        Raises OSError when the store does not take it.
        """
        self.step_down()
        self._claim = replace(self._claim, resigned=True)
        await asyncio.to_thread(renew_claim, self._run_dir, self._claim)
