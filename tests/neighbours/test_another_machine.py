"""Another machine in the network: no packet of its gets to anything that the emulator serves."""

from __future__ import annotations

from contextlib import ExitStack

from tests.launcher.emulator.running import Emulator
from tests.neighbours.places import another_machine, listeners, open_door, with_machines


@with_machines
def test_no_listener_of_any_kind_of_vm_answers_another_machine(emulator: Emulator) -> None:
    there = listeners(emulator)
    assert len(there) >= 3, "the API, the buckets, a metadata server"
    with another_machine() as machine, ExitStack() as doors:
        # It does get to these addresses: a port without a guard would be open to it.
        unguarded = [doors.enter_context(open_door(ip)) for ip in sorted({ip for ip, _ in there})]
        assert machine.reaches(unguarded) == [True] * len(unguarded)
        assert machine.reaches(there) == [False] * len(there)
