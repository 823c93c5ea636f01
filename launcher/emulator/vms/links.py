"""The networks of an emulator's jobs, linked: VMs of several jobs are in one network of the user's.

Each job's VMs have a network of their own (launcher.emulator.vms.netns), which comes and goes with
the job. ``process`` VMs have none: they all share this machine's.
"""

from __future__ import annotations

import threading

from launcher.emulator.vms import netns


class Links:
    """Links every network to all others, unless they are ``isolated``.

    Args:
        isolated: whether the VMs of one job reach those of no other.
    """

    def __init__(self, isolated: bool = False) -> None:
        self._isolated = isolated
        self._numbers: set[int] = set()
        self._lock = threading.Lock()  # two jobs may begin at the same time

    def add(self, number: int | None) -> None:
        """A job has this network; None if it has none. Raises OSError when it cannot be linked."""
        if number is None or self._isolated:
            return
        with self._lock:
            for other in sorted(self._numbers - {number}):
                netns.link(number, other)
            self._numbers.add(number)

    def remove(self, number: int | None) -> None:
        """A network is about to go, and its links with it."""
        if number is not None:
            with self._lock:
                self._numbers.discard(number)
