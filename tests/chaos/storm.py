"""Random events from a seed: who is hit by what, and when each comes back.

What happens depends on the seed alone; how long the run takes to get over it does not, so
before a VM is hit the storm waits until somebody else holds the state, too. (Losing all copies
at once is another matter: then the run goes back to its checkpoint.)
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass

from tests.chaos.cluster import Vm
from tests.chaos.run import Run

# What takes a VM away, and what brings it back.
BACK = {"lose": "start", "kill": "start", "drain": "start", "freeze": "thaw", "cut": "heal"}
CRASHES = ("kill worker", "hang worker", "kill agent")
LONGEST_PAUSE = 1.5  # seconds between two events
LAG = 60  # steps


@dataclass(frozen=True)
class Blow:
    """One event: what is done to which VM, how long after the one before."""

    what: str
    vm: int
    after: float


def plan(seed: int, events: int, vms: int, has_link: bool) -> list[Blow]:
    """Returns so many events; at the end all VMs are back, and at no time all are away."""
    chance = random.Random(seed)
    away: dict[int, str] = {}
    blows: list[Blow] = []
    kinds = [kind for kind in (*BACK, *CRASHES) if has_link or kind != "cut"]
    while len(blows) < events - len(away):
        vm = chance.randrange(vms)
        if vm in away:
            what = away.pop(vm)
        elif len(away) < vms - 1:
            what = chance.choice(kinds)
            if what == "kill agent":
                away[vm] = "start"
            elif what in BACK:
                away[vm] = BACK[what]
            if len(blows) + 1 + len(away) > events:  # no room to bring it back
                away.pop(vm, None)
                what = "kill worker"
        else:
            continue
        blows.append(Blow(what, vm, round(chance.uniform(0, LONGEST_PAUSE), 2)))
    return blows + [Blow(what, vm, 0.0) for vm, what in sorted(away.items())]


class Storm:
    """Carries a plan out on a run that has started."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._hit: dict[str, tuple[float, int]] = {}  # when each VM was hit last, at which step

    def blow(self, blow: Blow) -> None:
        """One event, in its time."""
        time.sleep(blow.after)
        vm = self._run[blow.vm]
        if blow.what in BACK or blow.what in CRASHES:
            self._run.until(
                lambda _: self._holders() - {vm.name}, f"somebody beside {vm.name} has the state"
            )
            self._hit[vm.name] = time.time(), self._run.history.step
        self._strike(vm, blow.what)

    def _strike(self, vm: Vm, what: str) -> None:
        if what == "kill worker" or what == "hang worker":
            if vm.workers():
                vm.signal_worker(signal.SIGKILL if what == "kill worker" else signal.SIGSTOP)
        elif what == "kill agent":
            if vm.agent:
                vm.agent.kill()
        elif what == "drain":
            vm.notify()
        else:
            getattr(vm, what)()

    def _holders(self) -> set[str]:
        """Those in the present world that were in it after they had been hit.

        It came together after that; or it has gone on for more steps than the events can lag
        behind: a step that completes proves that every member lives.
        """
        now = self._run.look().current
        if now is None or now.start is None:
            return set()
        resumed = max(
            (
                float(event["time"])
                for event in self._run.events
                if event["event"] == "resumed" and event["generation"] == now.generation
            ),
            default=0.0,  # nobody led when it began
        )
        holders = set()
        for name in now.members:
            at, step = self._hit.get(name, (0.0, 0))
            if resumed > at or now.last > step + LAG:
                holders.add(name)
        return holders
