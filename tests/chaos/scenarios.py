"""What may happen to a run, each as a story that begins and ends with the same world of three.

A scenario is a function of a run. It takes the VMs and the moment it needs, and waits for what
must follow; at the end of the run, ``Run.check`` says whether anything was lost. Those that
need a link (NEEDS_LINK) are for network namespaces only.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.chaos.run import PACE, Run

Scenario = Callable[[Run], None]


def worker_killed(run: Run) -> None:
    """A worker crashes; its VM lives, and puts another in its place."""
    before = run.generation
    run[1].signal_worker(signal.SIGKILL)
    run.until_world(*run.everybody, after=before)


def rank_0_killed(run: Run) -> None:
    """The worker of rank 0 crashes."""
    before = run.generation
    run.rank(0).signal_worker(signal.SIGKILL)
    run.until_world(*run.everybody, after=before)


def worker_hangs(run: Run) -> None:
    """A worker stops for good, while its agent lives: it is found out, and replaced."""
    before = run.generation
    worker = run[2].signal_worker(signal.SIGSTOP)
    run.until_world(*run.everybody, after=before)
    assert worker not in run[2].workers(), "the worker that hangs was not replaced"


def vm_hangs(run: Run) -> None:
    """A whole VM stops, and goes on when the others have long given it up."""
    run[2].freeze()
    run.until_world(run[0], run[1])
    run[2].thaw()
    run.until_world(*run.everybody)


def vm_lost(run: Run) -> None:
    """A VM is gone without a sign, and comes back as a new one under its name."""
    run[2].lose()
    run.until_world(run[0], run[1])
    run[2].start()
    run.until_world(*run.everybody)


def partition_heals(run: Run) -> None:
    """A VM is cut off, and can be reached again when the others have long given it up."""
    run[2].cut()
    run.until_world(run[0], run[1])
    run[2].heal()
    run.until_world(*run.everybody)


def leader_cut_off_for_a_while(run: Run) -> None:
    """The coordinator's VM is cut off, and can be reached again."""
    leader = run.leader()
    before = run.generation
    leader.cut()
    time.sleep(4.0)
    leader.heal()
    run.until_world(*run.everybody, after=before)


def two_vms_lost_at_once(run: Run) -> None:
    """Two of three VMs are gone in the same moment, none of them the coordinator's."""
    lost = [vm for vm in run.everybody if vm is not run.leader()]
    for vm in lost:
        vm.lose()
    run.until_world(run.leader())
    for vm in lost:
        vm.start()
    run.until_world(*run.everybody)


def all_but_one_lost(run: Run) -> None:
    """Only one VM is left, and it is not the coordinator's."""
    survivor = next(vm for vm in run.everybody if vm is not run.leader())
    lost = [vm for vm in run.everybody if vm is not survivor]
    for vm in lost:
        vm.lose()
    run.until_world(survivor)
    for vm in lost:
        vm.start()
    run.until_world(*run.everybody)


def flapping_vm(run: Run) -> None:
    """A VM comes and goes: taken again as soon as it trains, as it warms up, when it joins."""
    others = [run[0], run[1]]
    run[2].kill()
    run.until_world(*others)
    run[2].start()
    run.until_world(*run.everybody)
    run[2].lose()
    run.hold("data", run[2])
    run[2].start()
    run.until_held("data", run[2])
    run[2].kill()
    run.let_go("data", run[2])
    run.until_world(*others)
    run[2].start()
    run.until(lambda known: known.members[run[2].name] in ("ready", "active"), "it is ready again")
    run[2].kill()
    run.until_world(*others)
    run[2].start()
    run.until_world(*run.everybody)


def loss_during_reformation(run: Run) -> None:
    """While a world forms, one of those it waits for is gone: the others are in hvd.init."""
    run.hold("init", run[2])
    before = run.generation
    run[1].signal_worker(signal.SIGKILL)
    run.until_held("init", run[2])
    run[2].lose()
    run.let_go("init", run[2])
    run.until_world(run[0], run[1], after=before)
    run[2].start()
    run.until_world(*run.everybody)


def worker_killed_during_reformation(run: Run) -> None:
    """The same with a worker that crashes there."""
    run.hold("init", run[2])
    before = run.generation
    run[1].signal_worker(signal.SIGKILL)
    run.until_held("init", run[2])
    run[2].signal_worker(signal.SIGKILL)
    run.let_go("init", run[2])
    run.until_world(*run.everybody, after=before)


def receiver_lost_during_transfer(run: Run) -> None:
    """A newcomer is gone while it receives the state."""
    run[2].lose()
    run.until_world(run[0], run[1])
    run.hold("transfer", run[2])
    run[2].start()
    run.until_held("transfer", run[2])
    before = run.generation
    run[2].lose()
    run.let_go("transfer", run[2])
    run.until_world(run[0], run[1], after=before)
    run[2].start()
    run.until_world(*run.everybody)


def sender_lost_during_transfer(run: Run) -> None:
    """Whoever sends the state is gone in the middle of it; another one has it, too."""
    run[2].lose()
    run.until_world(run[0], run[1])
    sender = run.rank(0)
    run.hold("transfer", sender)
    run[2].start()
    run.until_held("transfer", sender)
    sender.lose()
    run.let_go("transfer", sender)
    run.until_world(*(vm for vm in run.everybody if vm is not sender))
    sender.start()
    run.until_world(*run.everybody)


def drain_and_join_in_the_same_second(run: Run) -> None:
    """A VM is told to leave in the moment in which another is ready to join."""
    newcomer = run[3]
    run.hold("data", newcomer)
    newcomer.start()
    run.until_held("data", newcomer)
    run[2].notify()
    run.let_go("data", newcomer)
    run.until_world(run[0], run[1], newcomer)
    run[2].kill()
    run[2].start()
    run.until_world(*run.everybody, newcomer)
    newcomer.notify()
    run.until_world(*run.everybody)
    newcomer.kill()


def joins_while_draining(run: Run) -> None:
    """A VM joins while another is on its way out, in a step that takes long."""
    newcomer = run[3]
    run.hold("data", newcomer)
    newcomer.start()
    run.until_held("data", newcomer)
    run.pace(1.5)
    run.until_steps(1)
    run[2].notify()
    run.let_go("data", newcomer)
    run.pace(PACE)
    run.until_world(run[0], run[1], newcomer)
    run[2].kill()
    newcomer.notify()
    run[2].start()
    run.until_world(*run.everybody)
    newcomer.kill()


def two_drain_together(run: Run) -> None:
    """Two VMs are told to leave during one step: they leave together."""
    before, drains = run.generation, run.count("drain")
    run.hold("step", run[0])
    run.until_held("step", run[0])
    run[1].notify()
    run[2].notify()
    run.until(lambda _: run.count("drain") == drains + 2, "both are known to leave")
    run.let_go("step", run[0])
    now = run.until_world(run[0])
    assert now.generation == before + 1, "one re-formation serves both"
    for vm in (run[1], run[2]):
        vm.start()
    run.until_world(*run.everybody)


NEEDS_LINK: tuple[Scenario, ...] = (partition_heals, leader_cut_off_for_a_while)

# Those that follow one another in one run; each can be had alone, too.
GROUPS: dict[str, tuple[Scenario, ...]] = {
    "workers": (rank_0_killed, worker_hangs),
    "vms": (vm_lost, vm_hangs, partition_heals, all_but_one_lost, flapping_vm),
    "moments": (
        loss_during_reformation,
        receiver_lost_during_transfer,
        sender_lost_during_transfer,
    ),
    "drains": (drain_and_join_in_the_same_second, joins_while_draining, two_drain_together),
}
# Each is like one of the others, which its name gives away: they are a soak.
VARIANTS: tuple[Scenario, ...] = (
    worker_killed,
    worker_killed_during_reformation,
    two_vms_lost_at_once,
    leader_cut_off_for_a_while,
)
