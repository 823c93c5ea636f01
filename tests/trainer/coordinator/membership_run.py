"""A membership machine with a clock, for the tests of its rules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trainer.coordinator.limits import Policy
from trainer.coordinator.member import Phase
from trainer.coordinator.membership import Membership
from trainer.protocol.signals import (
    Command,
    Event,
    Joined,
    Progress,
    Ready,
    Record,
    Started,
    Stopped,
    Tick,
)
from trainer.protocol.world import MemberId, World, arrange

Shown = Mapping[MemberId, Mapping[str, Any]]  # what agents say of their workers

A, B, C, D, E = (MemberId(f"workerpool1-{i}", "first") for i in range(5))


class Run:
    """A machine with a clock; ``orders`` and ``records`` collect what it says."""

    def __init__(
        self,
        expected: int = 0,
        last_generation: int = 0,
        deposed: MemberId | None = None,
        **limits: Any,
    ) -> None:
        policy = Policy(**{"min_workers": 1, "max_workers": 8, **limits})
        self.now = 100.0
        self.machine = Membership(policy, expected, self.now, last_generation, deposed)
        self.orders: list[Command] = []
        self.records: list[Record] = []

    def tell(self, *events: Event) -> list[Command]:
        """What the machine orders when these events happen."""
        orders: list[Command] = []
        for event in events:
            for command in self.machine.step(event, self.now):
                if isinstance(command, Record):
                    self.records.append(command)
                else:
                    orders.append(command)
        self.orders += orders
        return orders

    def wait(
        self,
        seconds: float,
        alive: str | tuple[MemberId, ...] = "all",
        shown: Shown = MappingProxyType({}),
    ) -> list[Command]:
        """Time passes in heartbeats of those ``alive``; ``shown`` is what they say of workers."""
        orders: list[Command] = []
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            generation = self.machine.generation
            beats = (
                Progress(one, generation, **shown.get(one, {})) for one in alive_in(self, alive)
            )
            orders += self.tell(*beats, Tick())
        return orders

    def ready(self, *members: MemberId, slots: int = 1) -> list[Command]:
        """Members join, and are ready."""
        return self.tell(*(event for one in members for event in (Joined(one, slots), Ready(one))))

    def start(self, *members: MemberId, slots: int = 1, step: int = 0) -> World:
        """Members join, form a world and train in it."""
        self.ready(*members, slots=slots)
        return self.started(step)

    def started(self, step: int = 0) -> World:
        """The world that is forming runs."""
        assert self.phase is Phase.FORMING
        self.tell(*(Started(one, self.world.generation, step) for one in self.world.members))
        assert self.phase is Phase.RUNNING
        return self.world

    def stopped(self, *members: MemberId, step: int = 0) -> list[Command]:
        """Members leave the world together, after ``step``."""
        return self.tell(*(Stopped(one, self.world.generation, step) for one in members))

    def told(self, event: str) -> list[dict[str, Any]]:
        """The fields of all records of one kind."""
        return [record.fields for record in self.records if record.event == event]

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
