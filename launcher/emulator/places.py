"""Where a job's VMs are: what tells the kinds of VM apart.

======== ============================================ ==========================================
kind     a VM is                                      when it vanishes
======== ============================================ ==========================================
process  a session of processes, with a loopback      everything in it is stopped: its
         address of its own                           connections stay open, and silent
netns    a network namespace, with an address, a host its link is cut; what runs in it lives on,
         name, a hosts file and a link (root only)    alone, and is killed some seconds later
======== ============================================ ==========================================

Both kinds share this machine's files: a run directory on its disk stays in reach of a VM
whose link is cut, as a bucket may of one that has lost its peers alone.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Protocol

from launcher.emulator import netns
from launcher.emulator.address import LoopbackAddress
from launcher.emulator.netns import Host, Network
from launcher.emulator.processes import signal_session

KINDS = ("process", "netns")
LIVES_ON = 3.0  # seconds that a VM whose link was cut lives on


def missing(kind: str) -> str | None:
    """Why VMs of this kind cannot be had here, with what to do about it; None when they can."""
    return netns.missing() if kind == "netns" else None


class Place(Protocol):
    """What one VM runs in, through all its incarnations."""

    @property
    def address(self) -> str:
        """The VM's own."""

    @property
    def metadata(self) -> str:
        """The address at which the VM finds its metadata server."""

    @property
    def lives_on(self) -> float | None:
        """Seconds until a VM that has vanished is gone; None when it never is by itself."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that becomes ``argv`` in the VM, keeping its process id."""

    def renew(self) -> None:
        """Makes the place that of a new VM. Blocks; nothing of an earlier one runs any more."""

    def vanish(self, session: int | None) -> None:
        """Makes the VM vanish to its peers; nobody is told."""

    def signal(self, session: int, number: int) -> int:
        """Sends a signal to everything in the VM. Returns how many processes it found."""


class Site(Protocol):
    """The places of one job's VMs."""

    @property
    def gateway(self) -> str | None:
        """This machine's address in their network; None where they share its loopback."""

    def place(self, replica: str) -> Place:
        """The place of one replica. Raises OSError when there is none."""

    def close(self) -> None:
        """Gives everything back. Blocks."""


def open_site(kind: str, hostnames: Mapping[str, str]) -> Site:
    """Makes the places of a job's VMs.

    Args:
        kind: one of KINDS.
        hostnames: by replica.

    Raises OSError when that is not possible here.
    """
    return LoopbackSite() if kind == "process" else NamespaceSite(hostnames)


class LoopbackPlace:
    """A ``process`` VM: a session and a loopback address."""

    lives_on = None

    def __init__(self, address: str) -> None:
        self.address = self.metadata = address

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def renew(self) -> None:
        return

    def vanish(self, session: int | None) -> None:
        if session is not None:
            signal_session(session, signal.SIGSTOP)

    def signal(self, session: int, number: int) -> int:
        return signal_session(session, number)


class LoopbackSite:
    """The places of ``process`` VMs."""

    gateway = None

    def __init__(self) -> None:
        self._addresses: list[LoopbackAddress] = []

    def place(self, replica: str) -> LoopbackPlace:
        self._addresses.append(LoopbackAddress())
        return LoopbackPlace(self._addresses[-1].address)

    def close(self) -> None:
        for address in self._addresses:
            address.release()


class NamespacePlace:
    """A ``netns`` VM: a network namespace. Its metadata server is on this side of the link."""

    lives_on = LIVES_ON

    def __init__(self, host: Host, gateway: str) -> None:
        self._host = host
        self._fresh = True
        self.address = host.address
        self.metadata = gateway

    def command(self, argv: Sequence[str]) -> list[str]:
        return self._host.command(argv)

    def renew(self) -> None:
        if not self._fresh:
            self._host.renew()
        self._fresh = False

    def vanish(self, session: int | None) -> None:
        self._host.cut()

    def signal(self, session: int, number: int) -> int:
        # By session, too: it may be on its way into the namespace.
        return max(self._host.signal(number), signal_session(session, number))


class NamespaceSite:
    """The places of ``netns`` VMs: one network."""

    def __init__(self, hostnames: Mapping[str, str]) -> None:
        self._network = Network(list(hostnames.values()))
        self._hosts = dict(zip(hostnames, self._network.hosts, strict=True))
        self.gateway = self._network.gateway

    def place(self, replica: str) -> NamespacePlace:
        return NamespacePlace(self._hosts[replica], self._network.gateway)

    def close(self) -> None:
        self._network.close()
