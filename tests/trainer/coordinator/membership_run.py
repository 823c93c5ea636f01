"""A membership machine with a clock, for the tests of its rules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Phase
from trainer.coordinator.membership import Membership
from trainer.coordinator.restarts import Restarts
from trainer.protocol import signals
from trainer.protocol.world import MemberId, World, arrange

Shown = Mapping[MemberId, Mapping[str, Any]]  # what agents say of their workers

A, B, C, D, E = (MemberId(f"workerpool1-{i}", "first") for i in range(5))


class Run:
    """A machine with a clock; ``orders`` and ``events`` collect what it returns."""

    def __init__(
        self,
        expected: int = 0,
        last_generation: int = 0,
        deposed: MemberId | None = None,
        **limits: Any,
    ) -> None:
        fixed = Limits(**{"min_workers": 1, "max_workers": 8, **limits})
        self.now = -100.0  # whatever the clock, only differences count
        kind = Membership if fixed.max_restarts is None else Restarts
        self.machine = kind(fixed, expected, self.now, last_generation, deposed)
        self.orders: list[signals.Command] = []
        self.events: list[signals.Emit] = []

    def step(self, *events: signals.Event) -> list[signals.Command]:
        """What the machine orders when these events happen."""
        orders: list[signals.Command] = []
        for event in events:
            for command in self.machine.step(event, self.now):
                if isinstance(command, signals.Emit):
                    self.events.append(command)
                else:
                    orders.append(command)
        self.orders += orders
        return orders

    def wait(
        self,
        seconds: float,
        alive: str | tuple[MemberId, ...] = "all",
        shown: Shown = MappingProxyType({}),
    ) -> list[signals.Command]:
        """Time passes in heartbeats of those ``alive``; ``shown`` is what they say of workers."""
        orders: list[signals.Command] = []
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            generation = self.machine.generation
            beats = (
                signals.Progress(one, generation, **shown.get(one, {}))
                for one in alive_in(self, alive)
            )
            orders += self.step(*beats, signals.Tick())
        return orders

    def ready(self, *members: MemberId, slots: int = 1) -> list[signals.Command]:
        """Members join, and are ready."""
        return self.step(
            *(
                event
                for one in members
                for event in (signals.Joined(one, slots), signals.Ready(one))
            )
        )

    def start(self, *members: MemberId, slots: int = 1, step: int = 0) -> World:
        """Members join, form a world and train in it."""
        self.ready(*members, slots=slots)
        return self.started(step)

    def started(self, step: int = 0) -> World:
        """The world that is forming runs."""
        assert self.phase is Phase.FORMING
        self.step(
            *(signals.Started(one, self.world.generation, step) for one in self.world.members)
        )
        assert self.phase is Phase.RUNNING
        return self.world

    def stopped(self, *members: MemberId, step: int = 0) -> list[signals.Command]:
        """Members leave the world together, after ``step``."""
        return self.step(*(signals.Stopped(one, self.world.generation, step) for one in members))

    def emitted(self, event: str) -> list[dict[str, Any]]:
        """The fields of all events of one kind."""
        return [one.fields for one in self.events if one.event == event]

    @property
    def phase(self) -> Phase:
        return self.machine.phase

    @property
    def world(self) -> World:
        assert self.machine.world is not None
        return self.machine.world


def alive_in(run: Run, alive: str | tuple[MemberId, ...]) -> tuple[MemberId, ...]:
    return tuple(run.machine.members) if isinstance(alive, str) else alive


def world(generation: int, *members: MemberId, slots: int = 1) -> World:
    return arrange(generation, [(member, slots) for member in members])


def drained(member: MemberId) -> signals.Release:
    """It leaves as planned, and does not come back."""
    return signals.Release(member, "drained", rejoin=False)


def given_up(member: MemberId, reason: str) -> signals.Release:
    """It is lost, as it seems; if it lives, it may come back as a new member."""
    return signals.Release(member, reason, rejoin=True)
