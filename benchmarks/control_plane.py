"""The control plane alone: a real coordinator, and 1,000 simulated agents.

Every agent holds a real gRPC stream over a connection of its own; the coordinator runs in a
process of its own, with a run directory on disk. The agents share one process, and there are no
workers: an agent leaves a world, or is in it, the moment it is told to. All decode what they are
told; that an agent also has to read who is in its world is measured for one, as each has a machine
of its own for it.

- ``loss``: an agent's connection breaks; until the last of the others knows the new generation.
- ``steady``: all agents show that they live, as often as in a run; what that costs.
- ``membership``: the state machine alone, without any I/O: what one event costs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from rows import Options, Row, benchmark
from simulated import CoordinatorProcess, SimulatedAgent, run, usage
from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Phase
from trainer.coordinator.membership import Membership
from trainer.protocol import signals
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.wire import world_from_message
from trainer.protocol.world import MemberId

AGENTS, QUICK_AGENTS = 1000, 50
STEADY = 10.0  # seconds
CONNECTING = 50  # agents that connect at the same time
LIMIT = 120.0  # seconds


class Fleet:
    """All simulated agents, and what they know."""

    def __init__(self, coordinator: CoordinatorProcess, count: int) -> None:
        self.agents = [
            SimulatedAgent(
                coordinator.target, coordinator.token, f"vm-{i:04}", 1, self._formed, self._aborted
            )
            for i in range(count)
        ]
        self.aborted_at = 0.0  # when the last of them was told so
        self.form = pb.Form()  # the newest
        self._know: dict[int, int] = {}  # how many know a generation
        self._changed = asyncio.Event()

    async def _formed(self, agent: SimulatedAgent, form: pb.Form) -> None:
        self.form = form
        generation = form.world.generation
        self._know[generation] = self._know.get(generation, 0) + 1
        self._changed.set()

    async def _aborted(self, agent: SimulatedAgent) -> None:
        self.aborted_at = time.perf_counter()
        agent.stopped("a peer was lost")

    async def all_know(self, generation: int) -> None:
        """Waits until all that are left were told of ``generation``."""
        while self._know.get(generation, 0) < len(self.agents):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), LIMIT)

    async def connect(self, stack: AsyncExitStack) -> None:
        """Connects all, some at a time."""
        for at in range(0, len(self.agents), CONNECTING):
            some = self.agents[at : at + CONNECTING]
            await asyncio.gather(*(stack.enter_async_context(agent) for agent in some))
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """All enter the world and complete a step."""
        for agent in self.agents:
            agent.started()
        await asyncio.sleep(0.5)
        for agent in self.agents:
            agent.beat()
        await asyncio.sleep(0.5)


def limits(workers: int) -> Limits:
    """Limits that nobody here reaches: what is measured is work, not patience."""
    return Limits(
        min_workers=1,
        max_workers=workers,
        hold_off=0.1,
        heartbeat=1.0,
        suspicion=30.0,
        lease_timeout=60.0,
        idle_suspicion=60.0,
        start_wait=LIMIT,
    )


def with_fleet(
    count: int, measure: Callable[[CoordinatorProcess, Fleet], Awaitable[list[Row]]]
) -> list[Row]:
    """Returns what ``measure`` finds with ``count`` agents that are in a world."""

    async def body(coordinator: CoordinatorProcess) -> list[Row]:
        async with AsyncExitStack() as stack:
            fleet = Fleet(coordinator, count)
            await fleet.connect(stack)
            await fleet.all_know(1)
            await fleet.settle()
            return await measure(coordinator, fleet)

    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        coordinator = CoordinatorProcess(Path(folder), limits(count), count)
        try:
            return run(body(coordinator))
        finally:
            coordinator.close()


def loss(options: Options) -> list[Row]:
    """From a broken connection to the last agent that knows its new generation."""
    count = QUICK_AGENTS if options.quick else AGENTS
    told: list[float | None] = []
    known: list[float | None] = []
    read: list[float | None] = []
    spent: list[float | None] = []

    async def measure(coordinator: CoordinatorProcess, fleet: Fleet) -> list[Row]:
        for generation in range(2, options.runs + 2):
            victim = fleet.agents.pop(len(fleet.agents) // 2)
            before = coordinator.usage()
            began = time.perf_counter()
            await victim.vanish()
            await fleet.all_know(generation)
            known.append(time.perf_counter() - began)
            told.append(fleet.aborted_at - began)
            spent.append(coordinator.usage().seconds - before.seconds)
            await fleet.settle()
            began = time.perf_counter()
            world = world_from_message(fleet.form.world)
            assert len(world.places_of(fleet.agents[-1].member)) == 1
            read.append(time.perf_counter() - began)
        case = f"loss, {count} agents"
        memory = coordinator.usage().memory / 2**20
        return [
            Row.of("swell", case, "until the last was told to stop", "s", told),
            Row.of("swell", case, "until the last knew the new generation", "s", known),
            Row.of("swell", case, "one agent reads its world", "s", read),
            Row.of("swell", case, "CPU of the coordinator", "s", spent),
            Row.of("swell", case, "memory of the coordinator", "MiB", [memory]),
        ]

    return with_fleet(count, measure)


def steady(options: Options) -> list[Row]:
    """What it costs to hear from everybody."""
    count = QUICK_AGENTS if options.quick else AGENTS
    seconds = 1.0 if options.quick else STEADY
    heartbeat = Limits().heartbeat

    async def beat(agent: SimulatedAgent, at: float) -> None:
        await asyncio.sleep(at)
        while True:
            agent.beat()
            await asyncio.sleep(heartbeat)

    async def measure(coordinator: CoordinatorProcess, fleet: Fleet) -> list[Row]:
        beats = [
            asyncio.create_task(beat(agent, heartbeat * i / count))
            for i, agent in enumerate(fleet.agents)
        ]
        await asyncio.sleep(heartbeat)
        before, mine, began = coordinator.usage(), usage(), time.perf_counter()
        await asyncio.sleep(seconds)
        wall = time.perf_counter() - began
        after, theirs = coordinator.usage(), usage()
        for task in beats:
            task.cancel()
        case = f"steady, {count} agents, a heartbeat every {heartbeat:g} s"
        cores = (after.seconds - before.seconds) / wall
        agents = (theirs.seconds - mine.seconds) / wall
        return [
            Row.of("swell", case, "CPU of the coordinator", "cores", [cores]),
            Row.of("swell", case, "memory of the coordinator", "MiB", [after.memory / 2**20]),
            Row.of(
                "swell",
                case,
                "CPU of all agents",
                "cores",
                [agents],
            ),
        ]

    return with_fleet(count, measure)


def membership(options: Options) -> Iterator[Row]:
    """What one event costs the state machine, from a start through a loss."""
    count = QUICK_AGENTS if options.quick else AGENTS
    case = f"membership, {count} members"
    costs: dict[str, list[float | None]] = {}
    for _ in range(options.runs):
        for kind, cost in _one_life(count).items():
            costs.setdefault(kind, []).append(cost * 1e6)
    for kind, values in costs.items():
        yield Row.of("swell", case, f"one {kind}", "us", values)


def _one_life(count: int) -> dict[str, float]:
    """Seconds that one event of each kind takes on average."""
    machine = Membership(limits(count), count, 0.0)
    members = [MemberId(f"vm-{i:04}", "0") for i in range(count)]
    costs: dict[str, float] = {}

    def feed(kind: str, events: list[signals.Event]) -> None:
        began = time.perf_counter()
        for event in events:
            machine.step(event, 1.0)
        costs[kind] = (time.perf_counter() - began) / len(events)

    feed("Joined", [signals.Joined(member, 1, None) for member in members])
    feed("Ready", [signals.Ready(member) for member in members])
    feed("Started", [signals.Started(member, 1, 0, 0.1) for member in members])
    assert machine.phase is Phase.RUNNING
    feed("Progress", [signals.Progress(member, 1, 1) for member in members])
    feed("Tick", [signals.Tick()] * 20)
    feed("Left", [signals.Left(members[0], "gone")])
    feed("Stopped", [signals.Stopped(member, 1, 1, True, "a peer") for member in members[1:]])
    feed("Started again", [signals.Started(member, 2, 1, 0.1) for member in members[1:]])
    assert machine.phase is Phase.RUNNING and machine.generation == 2
    return costs


if __name__ == "__main__":
    sys.exit(benchmark(__doc__, {"loss": loss, "steady": steady, "membership": membership}, runs=5))
