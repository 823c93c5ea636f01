"""Where a job's VMs are: what tells the kinds of VM apart.

======== ============================================ ==========================================
kind     a VM is                                      when it vanishes
======== ============================================ ==========================================
process  a session of processes, with a loopback      everything in it is stopped: its
         address of its own                           connections stay open, and silent
netns    a network namespace, with an address, a host its link is cut; what runs in it lives on,
         name, a hosts file and a link (root only)    alone, and is killed some seconds later
contain- the job's image in such a namespace, run by  the same, and no bucket is in its reach
er       podman, with files and a memory of its own   either
======== ============================================ ==========================================

The first two share this machine's files: a run directory on its disk stays in reach of a VM
whose link is cut, as a bucket may of one that has lost its peers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.emulator.peer import LOOPBACK
from launcher.emulator.vms import containers, netns
from launcher.emulator.vms.address import LoopbackAddress
from launcher.emulator.vms.containers import ContainerSite
from launcher.emulator.vms.host_places import NamespaceSite
from launcher.emulator.vms.processes import signal_session, stop_session
from launcher.emulator.vms.program import Program

KINDS = ("process", "netns", "container")


def missing(kind: str) -> str | None:
    """Why VMs of this kind cannot be had here, with what to do about it; None when they can."""
    if kind == "container":
        return containers.missing()
    return netns.missing() if kind == "netns" else None


@dataclass(frozen=True)
class Guest:
    """What a VM is to be.

    Args:
        hostname: its host name.
        image: the image that it runs; only containers do.
        memory: the most memory that it may use, in bytes; only containers are held to it.
    """

    hostname: str
    image: str
    memory: int | None = None


class Place(Protocol):
    """What one VM runs in, through all its incarnations."""

    @property
    def address(self) -> str:
        """The VM's own."""

    @property
    def metadata(self) -> str:
        """The address at which the VM finds its metadata server."""

    @property
    def device(self) -> str:
        """This machine's interface at which the VM's requests arrive."""

    @property
    def keeps_orphans(self) -> bool:
        """Whether what the VM's command leaves behind, in whatever session, is the VM's."""

    @property
    def lives_on(self) -> float | None:
        """Seconds until a VM that has vanished is gone; None when it never is by itself."""

    def command(self, program: Program) -> tuple[list[str], dict[str, str]]:
        """The command that runs the program in the VM, and the environment of that command.

        The command's process is the VM's: signals reach the program through it, and it ends
        with the program's exit code.
        """

    def renew(self) -> None:
        """Makes the place that of a new VM. Blocks; nothing of an earlier one runs any more."""

    def held(self) -> Sequence[int]:
        """Open files: while any is open, the place is nobody else's. Raises OSError."""

    def vanish(self, session: int | None) -> None:
        """Makes the VM vanish to its peers; nobody is told."""

    def signal(self, session: int | None, number: int) -> int:
        """Sends a signal to everything in the VM. Returns how many processes it found.

        Args:
            session: the command's, if it may be there.
            number: the signal's.
        """


class Site(Protocol):
    """The places of one job's VMs."""

    @property
    def gateway(self) -> str | None:
        """This machine's address in the VMs' network; None when they are on its own."""

    @property
    def device(self) -> str:
        """This machine's interface at which the VMs' requests arrive."""

    @property
    def number(self) -> int | None:
        """The number of the VMs' network, by which another emulator may inherit it."""

    def place(self, replica: str, inherit: str | None = None) -> Place:
        """The place of one replica. Raises OSError when there is none.

        Args:
            replica: whose.
            inherit: the address of a VM of the replica that lives.
        """

    def close(self) -> None:
        """Gives everything back. Blocks."""


def open_site(
    kind: str, guests: Mapping[str, Guest], folder: Path, inherit: int | None = None
) -> Site:
    """Makes the places of a job's VMs.

    Args:
        kind: one of KINDS.
        guests: the VMs by replica.
        folder: for files that are needed as long as the emulator runs.
        inherit: the number of the network in which some of them live, if there is one.

    Raises OSError when that is not possible here.
    """
    if kind == "process":
        return LoopbackSite()
    hostnames = {replica: guest.hostname for replica, guest in guests.items()}
    if kind == "netns":
        return NamespaceSite(hostnames, inherit)
    memory = {replica: guest.memory for replica, guest in guests.items() if guest.memory}
    images = [guest.image for guest in guests.values()]
    return ContainerSite(hostnames, images, memory, folder, inherit)


class LoopbackPlace:
    """A ``process`` VM: a session and a loopback address."""

    device = LOOPBACK
    keeps_orphans = True
    lives_on = None

    def __init__(self, address: LoopbackAddress) -> None:
        self._claim = address
        self.address = self.metadata = address.address

    def command(self, program: Program) -> tuple[list[str], dict[str, str]]:
        return program.argv(), dict(program.environment)

    def renew(self) -> None:
        return

    def held(self) -> Sequence[int]:
        return [self._claim.held()]

    def vanish(self, session: int | None) -> None:
        if session is not None:
            stop_session(session)

    def signal(self, session: int | None, number: int) -> int:
        return signal_session(session, number) if session else 0


class LoopbackSite:
    """The places of ``process`` VMs."""

    device = LOOPBACK
    gateway = None
    number = None

    def __init__(self) -> None:
        self._addresses: list[LoopbackAddress] = []

    def place(self, replica: str, inherit: str | None = None) -> LoopbackPlace:
        self._addresses.append(LoopbackAddress(inherit))
        return LoopbackPlace(self._addresses[-1])

    def close(self) -> None:
        for address in self._addresses:
            address.release()
