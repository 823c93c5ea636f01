"""One run of the chaos tests: what is known of it, what it waits for, and what must be true at
its end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy

from launcher.status.generation import Generation
from launcher.status.history import History
from launcher.status.samples import read_audit
from tests.chaos.cluster import Cluster, Vm
from tests.chaos.task import BATCH, EPOCHS, SAMPLES, SEED, STEPS_PER_EPOCH
from trainer.engine.data import Order
from trainer.rundir.events import Event, EventReader

LIMIT = 600.0  # seconds; only what hangs takes as long
LOOK_EVERY = 0.05
PACE = 0.08  # seconds per step while something is to happen
PACES = {0.5: 0.25, 0.75: 1.0, 0.9: 2.0}  # from these shares of the steps on

# Short limits, so that the tests are; see trainer.agent.settings and trainer.coordinator.limits.
# Only silence is waited for twice as long as usual: on a busy machine, who lives is silent, too.
SETTINGS = {
    "checkpoint": {"every": 20.0},
    "suspicion": 3.0,
    "min_workers": 1,
    "start_wait": 30.0,
    "hold_off": 0.5,
    "spares": 0,
    "audit": True,
}


# The final parameters of one process that trains alone, by epochs.
Undisturbed = Callable[[int], Mapping[str, float]]


class Run:
    """A run on a cluster of VMs.

    Args:
        kind: of the VMs, "netns" or "process".
        folder: where everything of it is kept.
        vms: how many VMs there can be; the run starts on three.
        settings: those that are not as usual.
        task: arguments of the task.
        clocks, fresh: see Cluster.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        vms: int = 3,
        settings: Mapping[str, Any] = MappingProxyType({}),
        task: Mapping[str, Any] = MappingProxyType({}),
        clocks: Sequence[float] = (),
        fresh: bool = False,
    ) -> None:
        self.folder = folder
        for name in ("hold", "held"):
            (folder / name).mkdir()
        self.pace(PACE)
        whole = {**SETTINGS, "max_workers": vms, **settings}
        args = {"folder": str(folder), **task}
        whole["program"] = {"task": "tests.chaos.task:Steerable", "task_args": args}
        self.cluster = Cluster(kind, folder, vms, 3, whole, clocks, fresh)
        self._epochs = task.get("epochs", EPOCHS)
        self._steps = self._epochs * STEPS_PER_EPOCH
        self._names = list(self.cluster.vms)
        self._reader = EventReader(self.cluster.run_dir)
        self._ended = False
        self.events: list[Event] = []
        self.history = History()

    # --- the VMs --------------------------------------------------------------------

    def __getitem__(self, index: int) -> Vm:
        return self.cluster.vms[self._names[index]]

    @property
    def everybody(self) -> list[Vm]:
        """The VMs that the run starts on."""
        return [self[index] for index in range(3)]

    def start(self) -> None:
        """Starts the first VMs, and waits for the world of all of them."""
        for vm in self.everybody:
            vm.start()
        self.until_world(*self.everybody)

    def rank(self, rank: int) -> Vm:
        """The VM of a rank of the present world."""
        current = self.look().current
        assert current
        return self.cluster.vms[current.members[rank]]

    def leader(self) -> Vm:
        """The VM whose agent hosts the coordinator."""
        return self.cluster.vms[self._newest_leader()["member"]]

    @property
    def term(self) -> int:
        """The leader's."""
        return int(self._newest_leader()["term"])

    def _newest_leader(self) -> Event:
        self.look()
        changes = [event for event in self.events if event["event"] == "leader_changed"]
        return max(changes, key=lambda event: int(event["term"]))

    # --- the workers ----------------------------------------------------------------

    def pace(self, seconds: float) -> None:
        """How long a step takes at least from now on."""
        aside = self.folder / "pace.new"
        aside.write_text(str(seconds))
        aside.replace(self.folder / "pace")

    def hold(self, point: str, vm: Vm) -> None:
        """The VM's next worker that comes to the point is to stay there."""
        (self.folder / "held" / f"{point}@{vm.name}").unlink(missing_ok=True)
        (self.folder / "hold" / f"{point}@{vm.name}").touch()

    def until_held(self, point: str, vm: Vm) -> None:
        """Waits until a worker is there."""
        held = self.folder / "held" / f"{point}@{vm.name}"
        self.until(lambda _: held.exists(), f"{vm.name} comes to {point}")

    def let_go(self, point: str, vm: Vm) -> None:
        """Nobody is held at the point any more."""
        (self.folder / "hold" / f"{point}@{vm.name}").unlink()

    # --- what happens ---------------------------------------------------------------

    def look(self) -> History:
        """What is known by now."""
        for event in self._reader.read_new():
            self.events.append(event)
            self.history.add(event)
        return self.history

    def count(self, kind: str) -> int:
        """How many events of a kind there have been."""
        self.look()
        return sum(event["event"] == kind for event in self.events)

    def until(self, condition: Callable[[History], object], what: str) -> None:
        """Waits until ``condition`` holds; a test that waits for too long, or in vain, fails."""
        deadline = time.monotonic() + LIMIT
        while not condition(self.look()):
            self._leave_time()
            assert time.monotonic() < deadline, f"it does not come true that {what}\n{self}"
            assert self._ended or not self.cluster.run_dir.outcome(), (
                f"the run ended before {what}\n{self}"
            )
            time.sleep(LOOK_EVERY)

    def _leave_time(self) -> None:
        """Slows the run down as it nears its end, so that it does not end before the test."""
        if not self._ended:
            for share, seconds in PACES.items():
                if self.history.step > share * self._steps:
                    self.pace(seconds)

    def until_world(self, *vms: Vm, after: int = 0) -> Generation:
        """Waits until exactly these VMs train together, in a generation after ``after``."""
        names = {vm.name for vm in vms}

        def trains(history: History) -> bool:
            now = history.current
            return (
                now is not None
                and now.generation > after
                and set(now.members) == names
                and now.start is not None
                and now.last > now.start
            )

        self.until(trains, f"{sorted(names)} train together")
        assert self.history.current
        return self.history.current

    def until_steps(self, count: int) -> None:
        """Waits until so many more steps are completed."""
        goal = self.look().step + count
        self.until(lambda history: history.step >= goal, f"step {goal} is completed")

    @property
    def generation(self) -> int:
        """The number of the newest generation that is known."""
        current = self.look().current
        return current.generation if current else 0

    # --- the end --------------------------------------------------------------------

    def finish(self) -> None:
        """Lets the run go to its end, undisturbed."""
        self._ended = True
        for vm in self.cluster.vms.values():
            if vm.lost:
                vm.kill()
        self.pace(0.0)
        outcome = self.cluster.run_dir.outcome
        self.until(lambda _: outcome() is not None, "the run ends")
        agents = [vm for vm in self.cluster.vms.values() if vm.agent]
        self.until(
            lambda _: all(vm.agent and vm.agent.poll() is not None for vm in agents),
            "all agents exit",
        )
        codes = {vm.name: vm.agent.poll() for vm in agents if vm.agent}
        assert set(codes.values()) <= {0}, f"{codes}\n{self}"

    def check(self, undisturbed: Undisturbed) -> None:
        """What must be true whatever has happened."""
        expected = undisturbed(self._epochs)
        outcome = self.cluster.run_dir.outcome()
        assert outcome and outcome["state"] == "succeeded", f"{outcome}\n{self}"
        assert self.cluster.processes() == [], "an orphan"
        self._check_samples()
        names = sorted(expected)
        numpy.testing.assert_allclose(
            [outcome["metrics"][name] for name in names],
            [expected[name] for name in names],
            rtol=1e-7,
            atol=1e-9,
        )

    def _check_samples(self) -> None:
        """Every sample of every epoch was used exactly once, in the epoch's order.

        A worker notes its samples before it contributes them. A step of which the world did not
        hear is done again by a later generation: the newest that contributed is the one
        whose contribution was applied. What it notes while the run directory is out of reach waits,
        and is lost with it.
        """
        newest: dict[int, int] = defaultdict(int)
        shares: dict[tuple[int, int], list[tuple[int, list[int]]]] = defaultdict(list)
        for line in read_audit(self.cluster.run_dir):
            step, generation = line["step"], line["generation"]
            if line.get("withdrawn"):
                shares[step, generation].remove((line["rank"], line["ids"]))
                continue
            newest[step] = max(newest[step], generation)
            shares[step, generation].append((line["rank"], line["ids"]))
        order = Order(SAMPLES, BATCH, SEED)
        unsure = min(
            (one["step"] for one in self.events if one["event"] == "audit_failed"),
            default=self._steps + 1,
        )
        known = [step for step in sorted(newest) if step < unsure]
        assert known == list(range(1, min(self._steps + 1, unsure))), (
            "steps are missing from the audit"
        )
        for step, generation in newest.items():
            used = [one for _, ids in sorted(shares[step, generation]) for one in ids]
            start, stop = order.bounds(step - 1)
            meant = order.permutation(order.epoch_of(step - 1))[start:stop].tolist()
            if step < unsure:
                assert used == meant, f"step {step}, generation {generation}\n{self}"
            else:
                whole = len(set(used)) == len(used) and set(used) <= set(meant)
                assert whole, f"step {step}, generation {generation}\n{self}"

    def close(self) -> None:
        """Leaves nothing."""
        self.cluster.close()

    def __str__(self) -> str:
        """What has happened, for whoever reads why a test failed."""
        began = self.events[0]["time"] if self.events else 0.0
        lines = [
            f"{event['time'] - began:8.2f} "
            + " ".join(f"{k}={v}" for k, v in event.items() if k not in ("time", "metrics"))
            for event in self.events
            if event["event"] not in ("steps", "evaluated")
        ]
        said = [f"--- {vm.name}\n{vm.log[-1500:]}" for vm in self.cluster.vms.values()]
        return "\n".join([f"in {self.folder}, at step {self.history.step}", *lines[-40:], *said])
