"""The control plane alone: a real coordinator, and 1,024 simulated agents.

Every agent holds a real gRPC stream over a connection of its own; the coordinator runs in a
process of its own, with a run directory on disk. The agents share one process, and there are no
workers: an agent leaves a world, or is in it, the moment it is told to. All decode what they are
told; that an agent also has to read who is in its world is measured for one, as each has a machine
of its own for it. ``loss`` and ``job`` are measured twice: with one CustomJob, and with 64 of 16
agents each, which have a certificate, a record and a name for each job, as in a fleet.

- ``loss``: an agent's connection breaks; until the last of the others knows the new generation.
- ``job``: the same for 16 agents at once, as when a fleet loses a job.
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

AGENTS, QUICK_AGENTS = 1024, 64
JOBS, QUICK_JOBS = 64, 4  # of a fleet with as many agents
STEADY = 10.0  # seconds
CONNECTING = 50  # agents that connect at the same time
LIMIT = 120.0  # seconds


class Members:
    """All simulated agents, and what they know.

    Args:
        coordinator: of all of them.
        count: how many.
        jobs: over how many CustomJobs they are dealt.
    """

    def __init__(self, coordinator: CoordinatorProcess, count: int, jobs: int = 1) -> None:
        each = count // jobs
        self.agents = [
            SimulatedAgent(
                coordinator.target,
                coordinator.tokens[job],
                replica if jobs == 1 else f"{job + 1}/{replica}",
                1,
                self._formed,
                self._aborted,
            )
            for job in range(jobs)
            for replica in replicas(each)
        ]
        self.aborted_at = 0.0  # when the last of them was told so
        self.form = pb.Form()  # the newest
        self._know = 0  # how many know it
        self._changed = asyncio.Event()

    async def _formed(self, agent: SimulatedAgent, form: pb.Form) -> None:
        if form.world.generation != self.form.world.generation:
            self.form, self._know = form, 0
        self._know += 1
        self._changed.set()

    async def _aborted(self, agent: SimulatedAgent) -> None:
        self.aborted_at = time.perf_counter()
        agent.stopped("a peer was lost")

    async def all_know(self) -> None:
        """Waits until all that are left were told of a world of all that are left."""
        while not self._know == len(self.form.world.slots) == len(self.agents):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), LIMIT)

    async def connect(self, stack: AsyncExitStack) -> None:
        """Connects all, some at a time."""
        for at in range(0, len(self.agents), CONNECTING):
            some = self.agents[at : at + CONNECTING]
            await asyncio.gather(*(stack.enter_async_context(agent) for agent in some))
            await asyncio.sleep(0)

    async def lose(self, count: int) -> None:
        """The connections of so many agents break, from the middle of the ranks on."""
        middle = len(self.agents) // 2
        middle -= middle % count  # where a fleet's job begins
        victims = self.agents[middle : middle + count]
        del self.agents[middle : middle + count]
        await asyncio.gather(*(victim.vanish() for victim in victims))

    async def settle(self) -> None:
        """All enter the world and complete a step."""
        for agent in self.agents:
            agent.started()
        await asyncio.sleep(0.5)
        for agent in self.agents:
            agent.beat()
        await asyncio.sleep(0.5)


def replicas(count: int) -> list[str]:
    """The replicas of a CustomJob of two pools."""
    return ["workerpool0-0", *(f"workerpool1-{i}" for i in range(count - 1))]


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


def with_members(
    count: int,
    measure: Callable[[CoordinatorProcess, Members], Awaitable[list[Row]]],
    jobs: int = 1,
) -> list[Row]:
    """Returns what ``measure`` finds with ``count`` agents that are in a world."""

    async def body(coordinator: CoordinatorProcess) -> list[Row]:
        async with AsyncExitStack() as stack:
            members = Members(coordinator, count, jobs)
            await members.connect(stack)
            await members.all_know()
            await members.settle()
            return await measure(coordinator, members)

    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        coordinator = CoordinatorProcess(Path(folder), limits(count), count, jobs)
        try:
            return run(body(coordinator))
        finally:
            coordinator.close()


def losses(options: Options, whole_job: bool) -> list[Row]:
    """From broken connections to the last agent that knows its new generation."""
    count = QUICK_AGENTS if options.quick else AGENTS
    jobs = QUICK_JOBS if options.quick else JOBS
    lost = count // jobs if whole_job else 1
    return [
        *_losses(options, count, 1, lost),
        *_losses(options, count, jobs, lost),
    ]


def _losses(options: Options, count: int, jobs: int, lost: int) -> list[Row]:
    told: list[float | None] = []
    known: list[float | None] = []
    read: list[float | None] = []
    spent: list[float | None] = []

    async def measure(coordinator: CoordinatorProcess, members: Members) -> list[Row]:
        for _ in range(options.runs):
            before = coordinator.usage()
            began = time.perf_counter()
            await members.lose(lost)
            await members.all_know()
            known.append(time.perf_counter() - began)
            told.append(members.aborted_at - began)
            spent.append(coordinator.usage().seconds - before.seconds)
            await members.settle()
            began = time.perf_counter()
            world = world_from_message(members.form.world)
            assert len(world.places_of(members.agents[-1].member)) == 1
            read.append(time.perf_counter() - began)
        dealt = f"{count} agents" if jobs == 1 else f"{jobs} jobs of {count // jobs} agents"
        case = f"{lost} lost of {dealt}"
        memory = coordinator.usage().memory / 2**20
        return [
            Row.of("swell", case, "until the last was told to stop", "s", told),
            Row.of("swell", case, "until the last knew the new generation", "s", known),
            Row.of("swell", case, "one agent reads its world", "s", read),
            Row.of("swell", case, "CPU of the coordinator", "s", spent),
            Row.of("swell", case, "memory of the coordinator", "MiB", [memory]),
        ]

    return with_members(count, measure, jobs)


def loss(options: Options) -> list[Row]:
    """One agent is lost."""
    return losses(options, whole_job=False)


def job(options: Options) -> list[Row]:
    """As many as a fleet's job has are lost at once."""
    return losses(options, whole_job=True)


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

    async def measure(coordinator: CoordinatorProcess, members: Members) -> list[Row]:
        beats = [
            asyncio.create_task(beat(agent, heartbeat * i / count))
            for i, agent in enumerate(members.agents)
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

    return with_members(count, measure)


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
    CASES = {"loss": loss, "job": job, "steady": steady, "membership": membership}
    sys.exit(benchmark(__doc__, CASES, runs=5))
