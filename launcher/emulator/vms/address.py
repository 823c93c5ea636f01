"""A loopback address of its own for every VM, also when several emulators run at once."""

from __future__ import annotations

import contextlib
import socket

# 127.0.0.1 is everybody's; some systems use .53 for a name server.
CANDIDATES = [f"127.0.0.{last}" for last in range(2, 255) if last != 53]


class LoopbackAddress:
    """One 127.0.0.x that no other VM on this machine has, until ``release`` or this process ends.

    The claim is two abstract Unix sockets named after the address: such names belong to a network
    namespace, exactly as loopback addresses do, and go with the processes that have them open. The
    owner has both. A VM's keeper has the second, too: while the VM lives nobody can claim its
    address, but when the owner was killed another process may inherit it.

    Args:
        inherit: the address of a VM that lives, whose owner is gone; None for any that is free.

    Raises OSError when all addresses are taken, or that one is.
    """

    def __init__(self, inherit: str | None = None) -> None:
        for address in CANDIDATES if inherit is None else [inherit]:
            self.address = address
            if (owner := _bound(f"swell-vm-{address}-owner")) is None:
                continue
            self._owner, self._user = owner, _bound(f"swell-vm-{address}")
            if self._user or inherit:
                return
            owner.close()
        if inherit:
            raise OSError(f"the address {inherit} is another's")
        raise OSError("no loopback address is free: too many VMs run on this machine")

    def held(self) -> int:
        """An open file for a VM's keeper. Raises OSError while an earlier VM has one."""
        if self._user is None:
            self._user = _bound(f"swell-vm-{self.address}")
        if self._user is None:
            raise OSError(f"the address {self.address} is another's")
        return self._user.fileno()

    def release(self) -> None:
        """Lets another VM have the address."""
        self._owner.close()
        if self._user:
            self._user.close()


def _bound(name: str) -> socket.socket | None:
    """A socket of that abstract name; None when somebody has it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        made.bind(f"\0{name}")
        return made
    made.close()
    return None
