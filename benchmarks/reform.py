"""How long a world takes to form again, beside Horovod's own rendezvous server.

Ranks are warm processes with the real Horovod, each on a VM of its own as far as it knows, all on
this machine. They leave a world and join the next one; the clock runs from the moment when the last
of them begins to leave until the last has done a first collective in the new world.

- ``swell-N``: a real coordinator (a process of its own) and, for each rank, a simulated agent with
  a real gRPC stream and a real rendezvous server; all agents share one process.
- ``horovod-N``: the same ranks, with the RendezvousServer that horovodrun uses and the requests
  that Horovod makes to it as it was released.
- ``rendezvous``: no Horovod: 64 agents as above, and for each 8 clients that ask, in HTTP over
  loopback, what Horovod's client asks for 512 ranks: rank and size, and the addresses for the
  global, the local and the cross mesh, of the size that gloo's have. Agents and clients share two
  processes; every answer is checked.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from crowd import Crowd
from rows import Options, Row, benchmark
from simulated import CoordinatorProcess, Host, SimulatedAgent, forks, run, usage
from trainer.agent.environment import horovod_environment
from trainer.coordinator.limits import Limits
from trainer.protocol.world import MemberId, Place, World, arrange

RANKS = (2, 4, 8, 16, 32)
QUICK_RANKS = (2, 4)
LIMIT = 60.0  # seconds for one re-formation
GLOO_TIMEOUT = 300.0  # seconds; longer than the limit

forks.set_forkserver_preload(["horovod.torch", "simulated"])


# --- ranks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """When one rank had got how far, in seconds of the machine's monotonic clock, and its cost."""

    left: float  # it began to leave the world before
    began: float  # it was told of the new one
    initialised: float
    synchronised: float
    cpu: float  # seconds, from the moment when it began to leave


class Rank:
    """A warm process with Horovod."""

    def __init__(self) -> None:
        self._line, theirs = forks.Pipe()
        self._process = forks.Process(target=_live, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    async def leave(self) -> None:
        """Leaves its world."""
        await self._ask(None)

    async def join(self, env: dict[str, str]) -> Joined:
        """Joins the world that ``env`` is for."""
        joined: Joined = await self._ask(env)
        return joined

    async def _ask(self, order: dict[str, str] | None) -> Any:
        self._line.send(order)
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()
        loop.add_reader(self._line.fileno(), answered.set)
        try:
            await answered.wait()
        finally:
            loop.remove_reader(self._line.fileno())
        return self._line.recv()

    def close(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.join()
        self._line.close()


def _live(line: Connection) -> None:
    import horovod.torch as hvd
    import torch

    torch.set_num_threads(1)
    left, spent = time.monotonic(), 0.0
    while True:
        try:
            env = line.recv()
        except EOFError:
            return
        if env is None:
            left, spent = time.monotonic(), usage().seconds
            hvd.shutdown()
            line.send(None)
            continue
        began = time.monotonic()
        os.environ.update(env)
        hvd.init()
        initialised = time.monotonic()
        hvd.allgather(torch.tensor([[hvd.rank(), 1]]), name="state.held")
        synchronised = time.monotonic()
        line.send(Joined(left, began, initialised, synchronised, usage().seconds - spent))


class Timings:
    """What the rounds took, in a row for each metric."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float | None]] = {}

    def add(self, ranks: list[Joined], agents: float, coordinator: float) -> None:
        """Takes in one round: what its ranks say, and the CPU seconds of the others."""
        left = max(one.left for one in ranks)
        began = max(one.began for one in ranks)
        initialised = max(one.initialised for one in ranks)
        for metric, seconds in {
            "all in shutdown to all synchronised": max(one.synchronised for one in ranks) - left,
            "  until the last was told of the new world": began - left,
            "  hvd.init() of the last": initialised - began,
            "  CPU of all ranks": sum(one.cpu for one in ranks),
            "  CPU of the server" if not coordinator else "  CPU of all agents": agents,
            **({"  CPU of the coordinator": coordinator} if coordinator else {}),
        }.items():
            self.rounds.setdefault(metric, []).append(seconds)

    def rows(self, system: str, case: str) -> list[Row]:
        """The rows; a round that passed the limit has no figure."""
        if not self.rounds:
            metric = f"all in shutdown to all synchronised (no round within {LIMIT:g} s)"
            return [Row.of(system, case, metric, "s", [None])]
        return [Row.of(system, case, metric, "s", of) for metric, of in self.rounds.items()]


def with_ranks(
    count: int, measure: Callable[[list[Rank], Timings], Coroutine[Any, Any, None]]
) -> Timings:
    """What ``measure`` found with ``count`` ranks before it took too long."""
    timings = Timings()
    ranks = [Rank() for _ in range(count)]
    try:
        run(measure(ranks, timings))
    except asyncio.TimeoutError:
        pass
    finally:
        for rank in ranks:
            rank.close()
    return timings


# --- Horovod's own server ---------------------------------------------------------------------


def horovod(count: int, options: Options) -> list[Row]:
    """Re-formations of ``count`` ranks by Horovod's RendezvousServer."""
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.http.http_server import RendezvousServer

    server = RendezvousServer()
    port = server.start()
    hosts = [HostInfo(f"vm-{i:04}", 1) for i in range(count)]
    plan = get_host_assignments(hosts, count)
    world = arrange(1, [(MemberId(host.hostname, "0"), 1) for host in hosts])

    async def measure(ranks: list[Rank], timings: Timings) -> None:
        for number in range(options.runs + 1):
            if number:
                await asyncio.gather(*(rank.leave() for rank in ranks))
            spent = usage().seconds
            server.init(plan)
            orders = []
            for rank, place in zip(ranks, world.places, strict=True):
                env = environment(place, port) | {"HOROVOD_ELASTIC": "0"}
                env["HOROVOD_GLOO_RENDEZVOUS_COLUMNS"] = "0"
                orders.append(rank.join(env))
            joined = await asyncio.wait_for(asyncio.gather(*orders), LIMIT)
            if number:  # the first is no re-formation
                timings.add(joined, usage().seconds - spent, 0.0)

    try:
        return with_ranks(count, measure).rows("Horovod's server", f"{count} ranks")
    finally:
        server.stop()


def environment(place: Place, port: int) -> dict[str, str]:
    """What a rank on loopback has to know."""
    env = horovod_environment(
        place, interface="lo", rendezvous_port=port, gloo_timeout=GLOO_TIMEOUT
    )
    return env | {"HOROVOD_LOG_LEVEL": "fatal"}  # that others are gone, when all are ended


# --- ours -------------------------------------------------------------------------------------


def limits(workers: int) -> Limits:
    """Limits that nobody here reaches."""
    return Limits(
        min_workers=workers,
        max_workers=workers,
        hold_off=0.1,
        heartbeat=1.0,
        suspicion=2 * LIMIT,
        lease_timeout=4 * LIMIT,
        idle_suspicion=2 * LIMIT,
        forming=2 * LIMIT,
        setback_limit=1000,
    )


def swell(count: int, options: Options) -> list[Row]:
    """Re-formations of ``count`` ranks by our coordinator, agents and rendezvous."""
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        coordinator = CoordinatorProcess(Path(folder), limits(count), count)

        async def measure(ranks: list[Rank], timings: Timings) -> None:
            joined: asyncio.Queue[Joined] = asyncio.Queue()

            async def join(rank: Rank, agent: SimulatedAgent, world: World, port: int) -> None:
                (place,) = world.places_of(agent.member)
                joined.put_nowait(await rank.join(environment(place, port)))

            async def all_joined() -> list[Joined]:
                return [await joined.get() for _ in ranks]

            async with AsyncExitStack() as stack:
                agents = []
                for i, rank in enumerate(ranks):
                    host = Host(partial(join, rank), rank.leave)
                    stack.push_async_callback(host.close)
                    agent = SimulatedAgent(
                        coordinator.target,
                        coordinator.token,
                        f"vm-{i:04}",
                        1,
                        host.formed,
                        host.aborted,
                        host.columns,
                    )
                    agents.append(await stack.enter_async_context(agent))
                await asyncio.wait_for(all_joined(), LIMIT)
                for _ in range(options.runs):
                    await asyncio.sleep(0.3)
                    mine, theirs = usage().seconds, coordinator.usage().seconds
                    agents[-1].stopped("a collective failed")  # everybody is told to leave
                    found = await asyncio.wait_for(all_joined(), LIMIT)
                    spent = coordinator.usage().seconds - theirs
                    timings.add(found, usage().seconds - mine, spent)

        try:
            return with_ranks(count, measure).rows("swell", f"{count} ranks")
        finally:
            coordinator.close()


# --- 512 ranks without Horovod ----------------------------------------------------------------


def rendezvous(options: Options) -> list[Row]:
    """The rendezvous alone, with simulated clients."""
    hosts, slots = (4, 2) if options.quick else (64, 8)
    world = arrange(1, [(MemberId(f"vm-{i:04}", "0"), slots) for i in range(hosts)])
    whole: list[float | None] = []
    alone: list[float | None] = []
    spent: list[float | None] = []
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        coordinator = CoordinatorProcess(Path(folder), limits(world.size), world.size)
        crowds = [
            Crowd(coordinator, world, range(hosts)[half * hosts // 2 : (half + 1) * hosts // 2])
            for half in (0, 1)
        ]
        try:
            for crowd in crowds:
                crowd.joined()
            for _ in range(options.runs):
                time.sleep(0.5)
                before = coordinator.usage().seconds
                began = time.monotonic()
                for crowd in crowds:
                    crowd.break_off()
                told, done = zip(*(crowd.joined() for crowd in crowds), strict=True)
                whole.append(max(done) - began)
                alone.append(max(done) - min(told))
                spent.append(coordinator.usage().seconds - before)
        finally:
            for crowd in crowds:
                crowd.close()
            coordinator.close()
    case = f"rendezvous, {world.size} ranks on {hosts} agents"
    return [
        Row.of("swell", case, "first agent told of the world to last rank served", "s", alone),
        Row.of("swell", case, "failure reported to last rank served", "s", whole),
        Row.of("swell", case, "  CPU of the coordinator", "s", spent),
    ]


if __name__ == "__main__":
    cases: dict[str, Callable[[Options], list[Row]]] = {}
    for number in RANKS:
        cases[f"horovod-{number}"] = partial(horovod, number)
        cases[f"swell-{number}"] = partial(swell, number)
    cases["rendezvous"] = rendezvous
    sys.exit(benchmark(__doc__, cases, runs=5))
