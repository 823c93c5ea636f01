"""A loopback address of its own for every VM, also when several emulators run at once."""

from __future__ import annotations

import contextlib
import socket

# 127.0.0.1 is everybody's; some systems use .53 for a name server.
CANDIDATES = [f"127.0.0.{last}" for last in range(2, 255) if last != 53]


class LoopbackAddress:
    """One 127.0.0.x that no other VM on this machine has, until ``release`` or this process ends.

    The claim is an abstract Unix socket named after the address. Such names belong to a
    network namespace, exactly as loopback addresses do, and they go with their process.

    Raises OSError when all addresses are taken.
    """

    def __init__(self) -> None:
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for address in CANDIDATES:
            with contextlib.suppress(OSError):
                self._claim.bind(f"\0swell-vm-{address}")
                self.address = address
                return
        self._claim.close()
        raise OSError("no loopback address is free: too many VMs run on this machine")

    def release(self) -> None:
        """Lets another VM have the address."""
        self._claim.close()
