"""How long training stands still when hosts go, crash, hang or come, and what it loses.

Three hosts are network namespaces on this machine (so this needs root): Swell, Elastic Horovod
(horovodrun) and torchrun train the same model on them, with 21 MB of parameters and as much
momentum. A case does one thing to one host:

    drain   it is given notice         crash   its worker is killed
    silent  its link is cut            hang    its worker is stopped (SIGSTOP)
    grow    it is the third of three, and comes late

and two do it to whatever leads the others, and then to a host:

    coordinator lost      the leader's host is gone, and nobody is told
    coordinator crashes   the process that leads is killed, and 3 s later a worker on another host

(The leader is Swell's coordinator, horovodrun's driver, or the torchrun that holds the store. The
driver runs beside the hosts; that it is lost with the first of them is played by killing it.)

Four more are of Swell alone, with a launch and the emulator (moving.py):

    move                     a fleet of one job goes to another region
    resize up, resize down   it has another job, or one less
    back to Spot             it trains on demand until Spot is to be had, half a minute after the
                             launch

There ``pause`` is the longest time between two steps, from the command until all is over; in the
last from when it trains, while Spot is tried in vain beside it, until it trains on Spot. All
processes share this machine, so a new VM that starts slows training, too. ``change`` is the longest
of those in which a new world was formed, and its stages are the time until each of the run's
events: ``paused`` (a pause is asked for; often in the step before), then ``generation_formed`` (all
have stopped, and know the new world), then ``resumed`` (they are connected, and all hold the
state); then the new world's first step.

What is measured comes from the workers' own stamps (see jobs/mlp.py), all of one clock:

    to the next step   from the event to the first step that a new world completed
    pause              between the last step of the old world and that one; in ``grow`` this is
                       the figure: ``to the next step`` holds the start of the new worker's process
    steps lost         steps that had been completed, and had to be done again
    without a leader   until another coordinator has claimed the run (Swell alone has another)

Swell trains it twice: as a task, and as the script that torchrun has, unchanged
(``torchrun: jobs/ddp_elastic.py``). Both run a script with transformers' Trainer, too, whose model
is another one: compare these two with each other. Elastic Horovod commits, and these scripts save,
every 10 steps, into a folder that all hosts share. A system that has not completed a step within
the limit of 100 s, or has ended with all its workers, counts as ``not recovered``.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from moving import CHANGES, Moved, moved

from launcher.emulator.vms import netns
from launcher.emulator.vms.netns import Host, Network
from rows import Case, Options, Row, benchmark
from stamps import Recovery, read_stamps, recovery
from systems import (
    Horovodrun,
    Swell,
    SwellTorchrun,
    SwellTrainer,
    System,
    Torchrun,
    TorchrunByDefault,
    TorchrunTrainer,
)

ROOT = Path(__file__).parents[1]
HOSTS = ("vm-a", "vm-b", "vm-c")
SIZES = "512,2048,2048,10"
BATCH = 48
START_LIMIT = 120.0  # seconds until all train
LIMIT = 100.0  # seconds until a step is completed again
WARM_STEPS = 15
CRASHES_APART = 3.0  # seconds
QUIET = 2.0  # seconds in which nothing starts; Swell's spares do 1 s after a world has begun
WATCH = 0.05  # seconds between two looks

MODEL = {
    "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}",
    "OMP_NUM_THREADS": "1",
    "MLP_SIZES": SIZES,
    "MLP_BATCH": str(BATCH),
    "MLP_STEPS": "1000000",
}

Make = Callable[[Network, Path, Mapping[str, str]], System]
SYSTEMS: Mapping[str, Make] = {
    "swell": Swell,
    "swell, torchrun's script": SwellTorchrun,
    "horovodrun": Horovodrun,
    "torchrun": Torchrun,
    "swell, Trainer": SwellTrainer,
    "torchrun, Trainer": TorchrunTrainer,
}


class Trial:
    """One system that trains on the hosts, until it is closed."""

    def __init__(self, make: Make, network: Network, folder: Path) -> None:
        self.network = network
        self._stamps = folder / "stamps"
        self._stamps.mkdir()
        self.system = make(network, folder, {**MODEL, "MLP_STAMPS": str(self._stamps)})

    def start(self, count: int) -> None:
        """Starts ``count`` hosts, and returns when all train and nothing else is busy."""
        self.system.start(self.network.hosts[:count])
        deadline = time.monotonic() + START_LIMIT
        while not self._trains(count) or self._starting():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count} hosts did not train within {START_LIMIT:.0f} s")
            time.sleep(WATCH)

    def worker(self, host: Host) -> int:
        """The process that trains on ``host``."""
        return next(
            one.pid for one in reversed(read_stamps(self._stamps)) if one.host == host.hostname
        )

    def observe(self, event: float) -> Recovery | None:
        """What became of training after ``event``; None if it was not taken up again."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            stamps = read_stamps(self._stamps)
            found = recovery(stamps, event)
            if found is not None:
                return found
            if self.system.ended() and not any(map(psutil.pid_exists, {s.pid for s in stamps})):
                return None
            time.sleep(WATCH)
        return None

    def _trains(self, count: int) -> bool:
        last = read_stamps(self._stamps)[-WARM_STEPS * count :]
        return len(last) == WARM_STEPS * count and all(one.size == count for one in last)

    def _starting(self) -> bool:
        """Whether a process that does not train is busy: a spare that still imports."""
        training = {one.pid for one in read_stamps(self._stamps)}
        idle = [
            psutil.Process(pid)
            for host in self.network.hosts
            for pid in host.processes()
            if pid not in training
        ]
        try:
            before = {one.pid: sum(one.cpu_times()[:2]) for one in idle}
            time.sleep(QUIET)
            return any(sum(one.cpu_times()[:2]) - before[one.pid] > 0.2 for one in idle)
        except psutil.NoSuchProcess:
            return True


def drain(trial: Trial, host: Host) -> None:
    trial.system.drain(host)


def crash(trial: Trial, host: Host) -> None:
    with suppress(ProcessLookupError):  # it is gone already, with whatever led it
        os.kill(trial.worker(host), signal.SIGKILL)


def silent(trial: Trial, host: Host) -> None:
    host.cut()


def hang(trial: Trial, host: Host) -> None:
    os.kill(trial.worker(host), signal.SIGSTOP)


def grow(trial: Trial, host: Host) -> None:
    trial.system.join(host)


def coordinator_lost(trial: Trial, host: Host) -> None:
    trial.system.lose_leader()


def coordinator_crashes(trial: Trial, host: Host) -> None:
    trial.system.crash_leader()
    time.sleep(CRASHES_APART)


EVENTS: Mapping[str, Callable[[Trial, Host], None]] = {
    **{one.__name__: one for one in (drain, crash, silent, hang, grow)},
    "coordinator lost": coordinator_lost,
    "coordinator crashes": coordinator_crashes,
}
LEADERS = ("coordinator lost", "coordinator crashes")


def measure(case: str, make: Make) -> tuple[Recovery | None, float | None]:
    """One system, one event, once; and how long it was without a leader."""
    with tempfile.TemporaryDirectory(prefix="swell-recovery-") as name, Network(HOSTS) as network:
        trial = Trial(make, network, Path(name))
        try:
            trial.start(2 if case == "grow" else 3)
            host, event = network.hosts[2], time.time()
            EVENTS[case](trial, host)
            if case == "coordinator crashes":
                event = time.time()
                crash(trial, host)
            found = trial.observe(event)
            leads = case in LEADERS
            return found, trial.system.leaderless() if leads else None
        finally:
            trial.system.close()


def compare(case: str, options: Options) -> Iterator[Row]:
    """All systems, in turn."""
    systems = dict(SYSTEMS)
    if case == "grow":
        systems["torchrun, by default"] = TorchrunByDefault
    found: dict[str, list[Recovery | None]] = {name: [] for name in systems}
    leaderless: dict[str, list[float | None]] = {name: [] for name in systems}
    for run in range(options.runs):
        for name, make in systems.items():
            one, without = measure(case, make)
            found[name].append(one)
            leaderless[name].append(without)
            print(f"{case} {run + 1}/{options.runs} {name}: {one}", file=sys.stderr, flush=True)
    for name, results in found.items():
        good = [one for one in results if one is not None]
        yield Row.of(name, case, "to the next step", "s", [one.seconds for one in good])
        yield Row.of(name, case, "pause", "s", [one.pause for one in good])
        yield Row.of(name, case, "steps lost", "steps", [one.lost for one in good])
        if any(one is not None for one in leaderless[name]):
            yield Row.of(name, case, "without a leader", "s", leaderless[name])
        if len(good) < len(results):
            missing = [float(one is None) for one in results]
            yield Row.of(name, case, f"not recovered within {LIMIT:.0f} s", "share", missing)


def change(case: str, options: Options) -> Iterator[Row]:
    """Swell alone: its machines are others while it trains."""
    found: list[Moved] = []
    for run in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="swell-moving-") as name:
            found.append(moved(CHANGES[case], Path(name), MODEL))
        print(f"{case} {run + 1}/{options.runs}: {found[-1]}", file=sys.stderr, flush=True)
    yield Row.of("swell", case, "until it is over", "s", [one.seconds for one in found])
    yield Row.of("swell", case, "pause", "s", [one.pause for one in found])
    yield Row.of("swell", case, "change", "s", [one.change for one in found])
    for name in found[0].stages:
        parts = [one.stages[name] for one in found]
        yield Row.of("swell", case, f"change, until {name}", "s", parts)
    yield Row.of("swell", case, "steps lost", "steps", [one.lost for one in found])


CASES: Mapping[str, Case] = {
    **{case: partial(compare, case) for case in EVENTS},
    **{case: partial(change, case) for case in CHANGES},
}

if __name__ == "__main__":
    if why := netns.missing():
        sys.exit(why)
    sys.exit(benchmark(__doc__, CASES))
