"""The tail of recovery: one of three VMs is lost, again and again, at the worst moments.

One long run per case, on VMs that are network namespaces (root), or processes without root;
three train, two more stand by. In each round one of the three is lost, in turn by being

    killed    everything in it dies, and the network says so
    cut       it is gone without a sign (processes: stopped for good)
    stopped   it stops, with its connections open

and the case says when: during a step; during a re-formation (another worker has crashed, and
the others are in hvd.init); during a transfer of state (another worker has crashed, and a
newcomer is being sent the state, 21 MB). The coordinator's VM takes its turn, too.

The pause is that which the engine reports: from the last completed step to the moment at which
the next world is ready for its first. A survivor has kept its state if its worker still
lives. All copies are lost when the run has to go back to a checkpoint.

``--runs`` is the number of rounds of each case (default 100). ``overall`` sums up the cases of
the same command.
"""

from __future__ import annotations

import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy

from rows import Options, Row, benchmark

sys.path.insert(0, str(Path(__file__).parents[1]))  # the chaos tests' VMs

from launcher.emulator.vms import netns
from tests.chaos.cluster import Vm
from tests.chaos.run import Run

SYSTEM = "swell"
ROUNDS = 100
QUICK_ROUNDS = 4
STATE = 21 * 2**20  # bytes
SETTINGS = {"max_workers": 3, "audit": False, "checkpoint": {"every": 30.0}}
TASK = {"epochs": 10**6, "ballast": STATE}
HOWS: dict[str, Callable[[Vm], None]] = {"killed": Vm.kill, "cut": Vm.lose, "stopped": Vm.freeze}
POINTS = {"step": None, "re-formation": "init", "transfer": "transfer"}


@dataclass(frozen=True)
class Round:
    """What one loss did.

    Attributes:
        how: what happened to the VM.
        leader: whether it was the coordinator's.
        pause: seconds without a step; None when nobody had the state any more.
        survivors, kept: how many were left, and how many of them kept their state.
        lost_steps: how far the run went back.
    """

    how: str
    leader: bool
    pause: float | None
    survivors: int
    kept: int
    lost_steps: int


done: list[Round] = []


def case(when: str, options: Options) -> Iterator[Row]:
    """Measures the rounds of one case."""
    rounds: list[Round] = []
    kind = "process" if (why := netns.missing()) else "netns"
    if why:
        print(f"VMs are processes: {why}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="swell-tail-") as folder:
        run = Run(kind, Path(folder), 5, SETTINGS, TASK, fresh=True)
        try:
            for index in range(5):
                run[index].start()
            hows = itertools.cycle(HOWS)
            for number in range(QUICK_ROUNDS if options.quick else options.runs):
                until_complete(run)
                rounds.append(one_round(run, when, next(hows), number // len(HOWS)))
                print(f"{when} {number}: {rounds[-1]}", file=sys.stderr)
        finally:
            run.close()
    done.extend(rounds)
    for how in HOWS:
        pauses = [one.pause for one in rounds if one.how == how]
        yield Row.of(SYSTEM, f"{how} during a {when}", "pause", "s", pauses)
    yield from summary(f"lost during a {when}", rounds)


def overall(options: Options) -> Iterator[Row]:
    """Sums up all cases that were measured."""
    yield from summary("lost at any moment", done)


def summary(name: str, rounds: list[Round]) -> Iterator[Row]:
    """What a number of rounds came to."""
    pauses = [one.pause for one in rounds if one.pause is not None]
    yield Row.of(SYSTEM, name, "pause", "s", pauses)
    others = [one.pause for one in rounds if one.pause is not None and not one.leader]
    for metric, values in (
        ("pause, 99th percentile", pauses),
        ("pause, 99th percentile, but for the coordinator's VM", others),
    ):
        yield Row.of(SYSTEM, name, metric, "s", numpy.percentile(values, [99]) if values else [])
    survivors = sum(one.survivors for one in rounds)
    kept = [100 * sum(one.kept for one in rounds) / survivors] if survivors else []
    yield Row.of(SYSTEM, name, "survivors that kept their state", "%", kept)
    lost = [float(sum(one.pause is None or one.lost_steps > 0 for one in rounds))]
    yield Row.of(SYSTEM, name, "rounds in which all copies were lost", "rounds", lost)


def until_complete(run: Run) -> None:
    """Three train, and the others stand by."""

    def complete() -> bool:
        run.look()
        now, states = run.history.current, run.history.members
        if now is None or now.start is None or now.last <= now.start or len(now.members) != 3:
            return False
        return all(name in now.members or states.get(name) == "ready" for name in run.cluster.vms)

    run.until(lambda _: complete(), "three train and two stand by")


def one_round(run: Run, when: str, how: str, turn: int) -> Round:
    """Loses the VM whose turn it is, and brings it back."""
    world = [run.rank(rank) for rank in range(3)]
    victim, other = world[turn % 3], world[(turn + 1) % 3]
    survivors = [vm for vm in world if vm is not victim]
    leader = victim is run.leader()
    held = {vm.name: vm.workers()[:1] for vm in survivors}
    point = POINTS[when]
    began = time.time()
    if point:
        survivors.remove(other)
        run.hold(point, victim)
        other.signal_worker(signal.SIGKILL)
        run.until_held(point, victim)
    HOWS[how](victim)
    struck = time.time()
    if point:
        run.let_go(point, victim)

    def news() -> list[dict[str, object]]:
        run.look()
        return [e for e in run.events if e["event"] == "resumed" and e["time"] > struck]

    run.until(lambda _: news(), "the survivors go on")
    resumed = [e for e in run.events if e["event"] == "resumed" and e["time"] > began]
    pauses = [float(e["seconds"]) for e in resumed if e.get("seconds") is not None]
    kept = sum(vm.workers()[:1] == held[vm.name] for vm in survivors)
    victim.start()
    return Round(
        how,
        leader,
        max(pauses, default=None),
        len(survivors),
        kept,
        sum(int(e.get("lost_steps", 0)) for e in resumed),
    )


CASES = {when: partial(case, when) for when in POINTS}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, {**CASES, "overall": overall}, runs=ROUNDS))
