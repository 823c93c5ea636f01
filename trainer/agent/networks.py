"""NCCL's settings for fast networks, from networks.json, where they can be used.

A network is used when its library is on this machine (an installer of Google's puts it there,
on one machine type each) and the interfaces that its settings name exist. Otherwise NCCL finds
its own way, over sockets. What the user has set stays as it is.

Between the jobs of a fleet none is used: they need not be on one such network, and what one rank
uses all must. There NCCL is told to use sockets, on the interface that has the VM's address.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("networks.json")


@dataclass(frozen=True)
class FastNetwork:
    """One kind of network.

    Attributes:
        name: what Google calls it.
        machines: the machine types that have it.
        library: NCCL's plugin for it; None where NCCL needs none.
        tested: whether Swell was tried on it.
        settings: variables for NCCL.
        sources: where each of the settings is written, by its name.
    """

    name: str
    machines: tuple[str, ...]
    library: str | None
    tested: bool
    settings: Mapping[str, str]
    sources: Mapping[str, str]

    def interfaces(self) -> set[str]:
        """The network interfaces that the settings name."""
        return {
            interface
            for name, value in self.settings.items()
            if name.endswith(("_IFNAME", "_CTRL_DEV"))
            for interface in value.split(",")
        }


def fast_networks() -> list[FastNetwork]:
    """What networks.json says."""
    return [
        FastNetwork(
            one["name"],
            tuple(one["machines"]),
            one["library"],
            one["tested"],
            {name: value for name, (value, _) in one["settings"].items()},
            {name: source for name, (_, source) in one["settings"].items()},
        )
        for one in json.loads(FILE.read_text(encoding="utf-8"))["networks"]
    ]


def between_jobs(environ: Mapping[str, str], interface: str) -> tuple[dict[str, str], str]:
    """The variables to add for the workers of a fleet, and a line that says why.

    Args:
        environ: the environment so far.
        interface: the network interface at which other jobs reach this VM.
    """
    plain = json.loads(FILE.read_text(encoding="utf-8"))["between_jobs"]
    wanted = {name: value for name, (value, _) in plain.items()}
    wanted["NCCL_SOCKET_IFNAME"] = f"={interface}"  # this one, not all that begin so
    added = {name: value for name, value in wanted.items() if name not in environ}
    return added, f"between the jobs of a fleet NCCL uses sockets, on {interface}"


def settings_here(
    environ: Mapping[str, str],
    exists: Callable[[str], bool] = os.path.exists,
    interfaces: Callable[[], list[str]] = lambda: os.listdir("/sys/class/net"),
) -> tuple[dict[str, str], str]:
    """The variables to add for the workers, and a line that says why; empty for none.

    Args:
        environ: the environment so far.
        exists: whether there is such a file.
        interfaces: the names of this machine's network interfaces.
    """
    found = next((one for one in fast_networks() if one.library and exists(one.library)), None)
    if found is None or found.library is None:
        return {}, ""
    missing = sorted(found.interfaces() - set(interfaces()))
    if missing:
        return {}, (
            f"{found.name} is not used: its library is here, "
            f"but no interface {' or '.join(missing)}; NCCL uses sockets"
        )
    added = {name: value for name, value in found.settings.items() if name not in environ}
    folder = str(Path(found.library).parent)
    before = environ.get("LD_LIBRARY_PATH", "")
    if folder not in before.split(":"):
        added["LD_LIBRARY_PATH"] = f"{folder}:{before}".rstrip(":")
    tested = "" if found.tested else " (Swell was never tried on it)"
    return added, f"NCCL uses {found.name}, whose library is here{tested}"
