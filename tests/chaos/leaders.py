"""What may happen to the coordinator, each as a story that begins and ends with the same world.

See tests.chaos.scenarios, whose form these have. In all of them the VMs' clocks are hours apart.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.chaos.cluster import Vm
from tests.chaos.run import Run


def others_than(vm: Vm, run: Run) -> list[Vm]:
    """Those that stay."""
    return [one for one in run.everybody if one is not vm]


def until_led_after(term: int, run: Run) -> Vm:
    """Waits for a leader of a later term."""
    run.until(lambda _: run.term > term, f"somebody leads after term {term}")
    return run.leader()


def leader_lost(run: Run) -> None:
    """The coordinator's VM is gone without a sign; it comes back as an ordinary member."""
    leader, term = run.leader(), run.term
    leader.lose()
    run.until_world(*others_than(leader, run))
    assert run.term > term
    leader.start()
    run.until_world(*run.everybody)
    assert run.leader() is not leader, "whoever comes back leaves the lead to who has it"


def leader_killed(run: Run) -> None:
    """The coordinator's VM is gone, and the network says so."""
    leader = run.leader()
    leader.kill()
    run.until_world(*others_than(leader, run))
    leader.start()
    run.until_world(*run.everybody)


def leader_hangs(run: Run) -> None:
    """The coordinator's VM stops, and goes on when another one has long taken over."""
    leader = run.leader()
    leader.freeze()
    run.until_world(*others_than(leader, run))
    leader.thaw()
    run.until_world(*run.everybody)


def coordinator_crashes(run: Run) -> None:
    """The coordinator alone dies: its agent starts it again, and no worker notices."""
    leader, term, generation = run.leader(), run.term, run.generation
    # The others' agents wait: where the machine is busy, one of them might well be first.
    for vm in others_than(leader, run):
        vm.signal_agent(signal.SIGSTOP)
    leader.kill_coordinator()
    assert until_led_after(term, run) is leader
    for vm in others_than(leader, run):
        vm.signal_agent(signal.SIGCONT)
    run.until_steps(30)
    assert run.generation == generation, f"the workers noticed\n{run}"


def leader_drained(run: Run) -> None:
    """The coordinator's VM is told to leave: it hands over, and leaves like any other."""
    leader, term, generation = run.leader(), run.term, run.generation
    losses = run.look().losses
    leader.notify()
    now = run.until_world(*others_than(leader, run))
    # How many terms later it is, is left to the machine: who has just won it may starve.
    assert run.leader() is not leader and run.term > term
    assert now.generation == generation + 1, f"the hand-over cost a re-formation\n{run}"
    assert run.look().losses == losses, f"something was lost\n{run}"
    leader.kill()
    leader.start()
    run.until_world(*run.everybody)


def leader_lost_during_reformation(run: Run) -> None:
    """A worker has crashed; the others are in hvd.init when the coordinator's VM is lost."""
    leader = run.leader()
    crashed, other = others_than(leader, run)
    before = run.generation
    run.hold("init", leader)
    crashed.kill()
    run.until_held("init", leader)
    leader.lose()
    run.let_go("init", leader)
    run.until_world(other, after=before)
    crashed.start()
    leader.start()
    run.until_world(*run.everybody)


def two_failovers_in_a_row(run: Run) -> None:
    """The coordinator's VM is lost, and the next one's as soon as it leads."""
    first = run.leader()
    first.lose()
    second = until_led_after(run.term, run)
    second.lose()
    (last,) = (vm for vm in run.everybody if vm not in (first, second))
    run.until_world(last)
    for vm in (first, second):
        vm.start()
    run.until_world(*run.everybody)


def leader_cut_off_from_the_store(run: Run) -> None:
    """The coordinator reaches its peers, but not the store: another one leads, no step is lost."""
    leader, term, generation = run.leader(), run.term, run.generation
    leader.cut_store()
    assert until_led_after(term, run) is not leader
    time.sleep(2.0)  # of steps nothing is known if the VM has rank 0, whose events tell of them
    leader.heal_store()
    run.until_steps(50)
    assert run.generation == generation, f"the workers noticed\n{run}"


def follower_cut_off_from_its_leader(run: Run) -> None:
    """A member reaches the store, but no peer: it deposes nobody, because the leader lives."""
    leader, term = run.leader(), run.term
    follower, other = others_than(leader, run)
    follower.cut()
    run.until_world(leader, other)
    follower.heal()
    run.until_world(*run.everybody)
    assert run.term == term, f"a leader that lives was deposed\n{run}"


def everybody_restarts(run: Run) -> None:
    """The whole job starts again under the same names, and nobody remembers anything."""
    run.until(
        lambda _: any(event["event"] == "checkpoint_committed" for event in run.events),
        "there is a checkpoint",
    )
    before = run.generation
    for vm in run.everybody:
        vm.kill()
    for vm in run.everybody:
        vm.start()
    now = run.until_world(*run.everybody, after=before)
    assert now.start, f"it did not resume from the checkpoint\n{run}"


NEEDS_LINK: tuple[Callable[[Run], None], ...] = (follower_cut_off_from_its_leader,)

# By run, as in tests.chaos.scenarios.
GROUPS: dict[str, tuple[Callable[[Run], None], ...]] = {
    "leader": (coordinator_crashes, leader_lost, leader_drained, leader_hangs),
    "leaders": (
        leader_lost_during_reformation,
        follower_cut_off_from_its_leader,
        leader_cut_off_from_the_store,
        everybody_restarts,
    ),
}
VARIANTS: tuple[Callable[[Run], None], ...] = (leader_killed, two_failovers_in_a_row)
