"""A run on a recorded market, simulated: what becomes of each VM, and the events that tell of it.

Written without the ledger in mind: the truth is which VM was alive when, and which steps count.
Every VM has a clock of its own, hours off; the eldest leads, as long as it lives.

Of the training it is assumed that a step is so many VM-seconds of work whatever the world's size;
that every other VM that goes has notice; that newcomers take 50 s to be ready, and are let in once
the world is a minute old.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.rundir.events import Event

WORK = 64.0  # VM-seconds of a step
JOINS, READY = 10.0, 50.0  # seconds after a VM's agent has started
FOUND_OUT, AGREED, CONNECTED, COMPILED = 8.0, 1.0, 2.0, 3.0  # seconds
SETTLED = 60.0  # seconds of a world before it grows
TOGETHER = 60.0  # seconds of steps that are reported at once


@dataclass(frozen=True, order=True)
class Vm:
    """One VM.

    Attributes:
        born, dies: when its agent starts, and when it is taken away, in seconds of the run.
        silent: whether that is without notice.
        ahead: by how much its clock is.
    """

    born: float
    number: int
    dies: float
    silent: bool
    ahead: float

    @property
    def name(self) -> str:
        return f"workerpool1-{self.number % 64}"

    @property
    def incarnation(self) -> str:
        return f"{self.number:x}"


def vms_of(samples: Iterable[tuple[float, int]], end: float, seed: int) -> list[Vm]:
    """VMs that come and go so that as many live as a trace says."""
    draw = random.Random(seed)
    living: list[tuple[int, float]] = []
    found: list[Vm] = []
    number = gone = 0

    def take(number: int, born: float, dies: float, silent: bool) -> None:
        ahead = draw.uniform(-9000.0, 9000.0) if number else 0.0
        found.append(Vm(born, number, dies, silent, ahead))

    for at, count in samples:
        if at >= end:
            break
        while len(living) > count:
            # Not the first one, while it can be helped: a leader's loss is a case of its own.
            one, born = living.pop(draw.randrange(len(living)))
            gone += 1
            take(one, born, at, silent=gone % 2 == 0)
        while len(living) < count:
            living.append((number, at))
            number += 1
    for one, born in living:
        take(one, born, end, silent=True)
    return sorted(found)


@dataclass
class Traced:
    """A run on some VMs.

    Attributes:
        events: what its leaders, workers and its launcher tell, in order of true time.
        steps: that were completed.
        alive: VM-seconds of those that were there.
        paused: seconds from the last step of a world to the first of the next.
    """

    vms: list[Vm]
    end: float
    events: list[tuple[float, Event]] = field(default_factory=list)
    steps: int = 0
    alive: float = 0.0
    paused: float = 0.0
    began: float = 0.0  # when the first step was completed
    _term: int = 0
    _generation: int = 0

    def run(self) -> Traced:
        """Lets it happen."""
        wanted = {"attempt": 1, "job": "j", "region": "r", "replicas": 64, "wanted": 64}
        self._tell(0.0, 0.0, "attempt_started", **wanted)
        self._lead()
        now, stepped = 0.0, None
        while now < self.end:
            members = [vm for vm in self.vms if vm.born + READY <= now < vm.dies]
            if not members:
                now += 1.0
                continue
            now, stepped = self._world(members, now, stepped)
        self.alive = sum(min(vm.dies, self.end) - vm.born for vm in self.vms)
        self.events.sort(key=lambda told: told[0])
        return self

    def _world(self, members: list[Vm], formed: float, stepped: float | None) -> tuple[float, Any]:
        """One formation of it. Returns when the next forms, and when the last step was."""
        self._generation += 1
        told = {"generation": self._generation, "world_size": len(members)}
        names = [vm.name for vm in members]
        self._say(formed, "generation_formed", cause="grow", members=names, **told)
        begins = formed + CONNECTED
        death = min((vm.dies, vm.silent) for vm in members)
        ready = [vm.born + READY for vm in self.vms if formed < vm.born + READY < vm.dies]
        grows = min((max(at, formed + SETTLED) for at in ready), default=self.end)
        until = min(death[0], grows, self.end)
        lost = death[0] == until and death[1]
        if until > begins:
            idle = None if stepped is None else begins - stepped
            self._say(begins, "resumed", cause="grow", step=self.steps, seconds=idle, **told)
            each = WORK / len(members)
            first = begins + COMPILED + each
            count = 0
            if first <= until or not lost:
                count = 1 + max(0, int((until - first) // each))
                if not lost and until < self.end and until > first:  # the running step is completed
                    count += first + (count - 1) * each < until
            if count:
                if stepped is None:
                    self.began = first
                else:
                    self.paused += first - stepped
                self._steps(members[0], begins, first, each, count)
                self.steps += count
                stepped = first + (count - 1) * each
        left = until + FOUND_OUT if lost else max(until, stepped or 0.0, begins)
        if left < self.end:
            self._say(left, "paused", generation=self._generation, cause="loss", step=self.steps)
        return left + AGREED, stepped

    def _steps(self, rank_0: Vm, begins: float, first: float, each: float, count: int) -> None:
        start, ahead, told = self.steps, rank_0.ahead, {"generation": self._generation}
        seconds = first - begins
        self._tell(first, ahead, "first_step", step=start + 1, seconds=seconds, **told)
        done, some = 1, max(1, int(TOGETHER // each))
        fields: dict[str, Any] = {"first": start + 1, "count": 1, "seconds": 0.0, "metrics": {}}
        self._tell(first, ahead, "steps", **fields, **told)
        while done < count:
            many = min(some, count - done)
            fields = {"first": start + done + 1, "count": many, "seconds": many * each}
            done += many
            self._tell(first + (done - 1) * each, ahead, "steps", metrics={}, **fields, **told)

    def _lead(self) -> None:
        """Who comes, is ready and goes, as whoever leads tells it."""
        now = 0.0
        while now < self.end:
            here = [vm for vm in self.vms if vm.born <= now < vm.dies]
            if not here:
                now = min((vm.born for vm in self.vms if vm.born > now), default=self.end)
                continue
            leader = min(here, key=lambda vm: (vm.born, vm.dies))
            until = min(self.end, leader.dies)
            # Where nobody lived through what came before, clocks are all there is to go by.
            if not any(vm.born + READY < now for vm in here):
                leader = replace(leader, ahead=0.0)
            self._term += 1
            more = {"term": self._term}
            for vm in self.vms:
                joins, ahead = max(vm.born + JOINS, now), leader.ahead
                who = {"member": vm.name, "incarnation": vm.incarnation}
                if joins < min(until, vm.dies):
                    age = joins - vm.born
                    self._tell(joins, ahead, "member_joined", slots=1, age=age, **who, **more)
                if now <= vm.born + READY < min(until, vm.dies):
                    self._tell(vm.born + READY, ahead, "member_ready", member=vm.name, **more)
                if vm.dies < self.end and vm.silent and now <= vm.dies + FOUND_OUT < until:
                    at = vm.dies + FOUND_OUT
                    self._tell(at, ahead, "loss", reason="silent", gone=True, **who, **more)
                elif vm.dies < self.end and not vm.silent and now <= vm.dies < until:
                    self._tell(vm.dies, ahead, "drain", reason="notice", **who, **more)
            self._leaders.append((now, leader.ahead, self._term))
            now = until

    _leaders: list[tuple[float, float, int]] = field(default_factory=list)

    def _say(self, at: float, event: str, **fields: Any) -> None:
        """What the leader of that time says."""
        _, ahead, term = max(one for one in self._leaders if one[0] <= at)
        self._tell(at, ahead, event, term=term, **fields)

    def _tell(self, at: float, ahead: float, event: str, **fields: Any) -> None:
        known = {name: value for name, value in fields.items() if value is not None}
        self.events.append((at, {"event": event, "time": 1e6 + at + ahead, **known}))
