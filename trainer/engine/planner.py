"""Plans each step: what this rank computes of it, in one world after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from trainer.engine.agreement import Agreement
from trainer.engine.balance import Balance, Speed
from trainer.engine.data import Order
from trainer.engine.dealing import Dealer, Share
from trainer.engine.generations import Generations
from trainer.engine.plan import Plan
from trainer.engine.state import State


class Planner:
    """Plans the steps of one run.

    Args:
        state: what is trained; its step says how many are completed.
        order: which samples each step takes; None without a data set.
        total: steps of the whole run.
        generations: which world this worker is in.
        by_units: tells whether steps are computed by units.
        follow: whether shares follow the speeds of the ranks.
    """

    def __init__(
        self,
        state: State,
        order: Order | None,
        total: int,
        generations: Generations,
        by_units: Callable[[], bool],
        follow: bool,
    ) -> None:
        self._state = state
        self._total = total
        self._generations = generations
        self._by_units = by_units
        self._follow = follow
        self._dealer = Dealer(order)
        self._ahead = Dealer(order)  # it is elsewhere in the data
        self._far = Dealer(order)  # and this one farther on
        self._speed = Speed()
        self._balance = Balance([0.0], follow=False)
        self._tell_speed = False

    def enter(self, agreed: Agreement) -> None:
        """This worker is in another world, whose ranks have told their speeds."""
        speeds = [one.speed for one in agreed.holdings]
        self._balance = Balance(speeds, follow=self._follow)
        self._tell_speed = False

    def plan(self, before: int | None = None) -> Plan:
        """What this rank computes in the step after so many; without a number the next."""
        return self._plan(self._dealer, self._state.step if before is None else before)

    def ahead(self, number: int) -> Plan:
        """What this rank computes in a step to come, if nothing changes until then."""
        return self._plan(self._ahead, number - 1)

    def far_ahead(self, number: int) -> Plan:
        """The same, for those who look farther ahead than others do."""
        return self._plan(self._far, number - 1)

    @property
    def known(self) -> tuple[Any, ...]:
        """What all plans of this world follow from."""
        state, world = self._state, self._generations
        weights = tuple(self._balance.weights)
        limits = state.order_version, state.fits, state.cap
        return world.number, world.rank, world.size, weights, self._by_units(), *limits

    def newest(self) -> Plan:
        """What the newest step was about, for what follows it."""
        before = max(0, self._state.step - 1)
        return dataclasses.replace(self.plan(before), number=self._state.step)

    def ids_of(self, rank: int) -> list[int]:
        """The samples of a rank in the next step."""
        ids: list[int] = self._deal(self._dealer, self._state.step, rank).indices.tolist()
        return ids

    def _plan(self, dealer: Dealer, before: int) -> Plan:
        state, rank = self._state, self._generations.rank
        return Plan(
            number=before + 1,
            total=self._total,
            rank=rank,
            size=self._generations.size,
            device=state.device or state.prepare(),
            **self._deal(dealer, before, rank)._asdict(),
        )

    def _deal(self, dealer: Dealer, before: int, rank: int) -> Share:
        version = self._state.order_version
        return dealer.deal(before, rank, self._balance.weights, self._by_units(), version)

    def measured(self, samples: int, seconds: float, pause: bool) -> None:
        """A step was completed; all ranks call it alike.

        Args:
            samples: that this rank has computed.
            seconds: how long it took.
            pause: whether the world is to be left after it.
        """
        self._speed.measured(samples, seconds)
        self._tell_speed = self._balance.due() and not pause

    def exchange_speeds(self) -> None:
        """Every now and then, after the same step on all ranks: new weights for the shares."""
        if self._tell_speed:
            self._tell_speed = False
            self._state.speed = self._speed.settle()
            agreed = self._generations.agree(self._state)
            self._balance.told([one.speed for one in agreed.holdings])
