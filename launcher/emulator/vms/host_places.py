"""VMs that are hosts of a ``netns`` network: an address, a host name, a link that can be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.emulator.vms.netns import Host, Network
from launcher.emulator.vms.processes import signal_session
from launcher.emulator.vms.program import Program

LIVES_ON = 3.0  # seconds that a VM whose link was cut lives on


class HostPlace:
    """A VM that is a host, whatever runs in it.

    Args:
        host: where the VM runs.
        gateway: this machine's address in its network; its metadata server is there.
        held: an open file that keeps the network from being taken for abandoned.
        used: whether a VM has run in it.
    """

    keeps_orphans = True
    lives_on = LIVES_ON

    def __init__(self, host: Host, gateway: str, held: int, used: bool = False) -> None:
        self._host = host
        self._held = held
        self._used = used
        self.address = host.address
        self.metadata = gateway
        self.device = host.network

    def renew(self) -> None:
        """Makes this the place of a new VM."""
        if self._used:
            self._host.renew()
        self._used = True

    def held(self) -> Sequence[int]:
        """What keeps the network."""
        return [self._held]

    def vanish(self, session: int | None) -> None:
        """Cuts the link."""
        self._host.cut()


class NamespacePlace(HostPlace):
    """A ``netns`` VM: a host, and this machine's files."""

    def command(self, program: Program) -> tuple[list[str], dict[str, str]]:
        return self._host.command(program.argv()), dict(program.environment)

    def signal(self, session: int | None, number: int) -> int:
        # By session, too: it may be on its way into the namespace.
        found = signal_session(session, number) if session else 0
        return max(self._host.signal(number), found)


class HostSite:
    """The places of VMs that have a network of their own.

    Args:
        hostnames: by replica.
        inherit: the number of the network in which some of them live, if there is one.

    Attributes:
        gateway: this machine's address in the network.
        device: this machine's interface into it.
        number: the network's.

    Raises OSError when it cannot be made.
    """

    def __init__(self, hostnames: Mapping[str, str], inherit: int | None = None) -> None:
        self._network = Network(list(hostnames.values()), inherit)
        self._hosts = dict(zip(hostnames, self._network.hosts, strict=True))
        self._inherited = inherit is not None

    @property
    def gateway(self) -> str:
        return self._network.gateway

    @property
    def device(self) -> str:
        return self._network.name

    @property
    def number(self) -> int:
        return self._network.number


class NamespaceSite(HostSite):
    """The places of ``netns`` VMs."""

    def place(self, replica: str, inherit: str | None = None) -> NamespacePlace:
        network = self._network
        return NamespacePlace(self._hosts[replica], network.gateway, network.held, self._inherited)

    def close(self) -> None:
        self._network.close()
