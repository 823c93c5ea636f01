"""Has all ranks know what a step has shown to some of them; see trainer.engine.learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.engine.agreement import Agreement
from trainer.engine.data import Order
from trainer.engine.learned import Learned
from trainer.engine.state import State
from trainer.engine.units import Watch


class Learner:
    """Learns for one state, in one world after another.

    Args:
        state: what was learned is part of it.
        order: which samples each step takes, and by which units; None without a data set.
        watches: whether to compute by units only from the step on that shows that it matters.
        exchange: tells all ranks what each has given, under a name. A collective.
        emit: emits an event.
    """

    def __init__(
        self,
        state: State,
        order: Order | None,
        watches: bool,
        exchange: Callable[[Any, str], list[Any]],
        emit: Callable[..., None],
    ) -> None:
        self._state = state
        self._unit = 0 if order is None else order.unit
        self._watches = watches
        self._exchange = exchange
        self._emit = emit
        self._watch: Watch | None = None
        self._news = False  # whether steps go by units for the first time
        self._unlike = False  # whether the ranks know different things, and will tell each other

    @property
    def by_units(self) -> bool:
        """Whether steps are computed by units now."""
        return self.has_units and (not self._watches or self._state.learned.units != "")

    @property
    def has_units(self) -> bool:
        """Whether they ever may be."""
        return self._unit > 0

    def look(self) -> None:
        """Learns what models tell before any step; they are on their device."""
        if self._watches and self.has_units:
            self._watch = Watch(self._state.models)
            known = Learned(units=self._watch.known())
            self._state.learned = self._state.learned.found(known)
            self._news = self._state.learned.units != ""

    def enter(self, agreed: Agreement) -> None:
        """This worker is in another world, whose ranks have agreed on a state."""
        self._unlike = not agreed.learned_alike
        self._news &= self._state.step == 0

    def begin(self, step: int, tells: bool) -> Callable[[], str] | None:
        """A step begins.

        Args:
            step: its number.
            tells: whether this rank emits the event when steps go by units for the first time.

        Returns what says, once and later in the step, why it must be computed by units, "" if it
        need not; until then the random generators are its own. None where nobody needs to ask.
        """
        if self._news and tells:
            reason = self._state.learned.units
            self._emit("units", step=step, unit=self._unit, reason=reason)
        self._news = False
        if self._watch is None or self.by_units:
            return None
        self._watch.begin()
        return self._watch.found

    def found(self, learned: Learned) -> None:
        """A step was not taken, as some rank has learned something: here it was ``learned``."""
        self._news |= learned.units != ""
        self._state.learned = self._state.learned.found(learned)
        self._unlike = True

    def learn(self) -> None:
        """What steps have shown to some ranks, all know from now on. Called by all, or by none."""
        if not self._unlike:
            return
        state = self._state
        told = self._exchange(state.learned.plain, "state.learned")
        self._unlike = False
        before = state.learned
        state.learned = Learned.together([Learned.of(one) for one in told])
        self._news |= before.units != state.learned.units
