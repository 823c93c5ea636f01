"""Which replica this is, where its peers can reach it, how many workers it has room for, and where
the run's checkpoints are."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import MemberId
from trainer.rundir.names import ENV_ADDRESS, ENV_CHECKPOINTS, ENV_SLOTS
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import Unusable


@dataclass(frozen=True)
class Replica:
    """One VM of a CustomJob, as seen from inside.

    Attributes:
        name: such as ``workerpool1-0``; in a fleet ``3/workerpool1-0``, with its attempt's number.
        address: the IP address at which the peers reach this VM.
        interface: the network interface that has this address; gloo listens on it.
        slots: workers that fit on it: its GPUs, or 1.
        replicas: how many replicas the job has.
        shown: what this machine can do, if that was measured.
    """

    name: str
    address: str
    interface: str
    slots: int
    replicas: int
    shown: pb.Shown | None = None

    def member(self) -> MemberId:
        """A new incarnation of this replica."""
        return MemberId(self.name, secrets.token_hex(4))

    @property
    def is_primary(self) -> bool:
        """Whether this is pool 0's replica, whose exit ends the job."""
        return self.name.rpartition("/")[2] == "workerpool0-0"


def find_replica(env: Mapping[str, str], peer: str = "") -> Replica:
    """Reads the surroundings of this process. Without CLUSTER_SPEC it is a world of its own.

    Of several interfaces it takes the one that leads to ``peer``, the IP address of another
    replica if one is known, and else the one that leads out.

    Raises Unusable when CLUSTER_SPEC or SWELL_SLOTS is there and unusable.
    """
    name, replicas = parse_cluster_spec(env.get("CLUSTER_SPEC"))
    address = env.get(ENV_ADDRESS) or _routed_address(peer)
    slots = env.get(ENV_SLOTS)
    if slots is not None and not (slots.isdecimal() and int(slots) > 0):
        raise Unusable(
            "SW4004", f"{ENV_SLOTS} is {slots!r}; it must be a number of workers, at least 1"
        )
    return Replica(
        name=name,
        address=address,
        interface=_interface_of(address),
        slots=int(slots) if slots else _gpus() or 1,
        replicas=replicas,
    )


def find_checkpoint_urls(env: Mapping[str, str]) -> list[str]:
    """The directories that have the run's checkpoints, if they are not in the run directory.

    Raises Unusable when SWELL_CHECKPOINTS is there and unusable.
    """
    text = env.get(ENV_CHECKPOINTS, "[]")
    with suppress(ValueError):
        urls = parse_json(text.encode())
        if isinstance(urls, list) and all(isinstance(url, str) and url for url in urls):
            return urls
    raise Unusable("SW4005", f"{ENV_CHECKPOINTS} must be a JSON list of URLs, not {text[:60]!r}")


def parse_cluster_spec(text: str | None) -> tuple[str, int]:
    """Returns this replica's name and the number of replicas, from Vertex's CLUSTER_SPEC.

    Lenient about what Vertex documents as varying: ``open_ports`` and ``job`` may be
    missing, a lone replica may be called ``chief``. Raises Unusable for anything else.
    """
    if not text:
        return "workerpool0-0", 1
    try:
        spec: Any = json.loads(text)
        task = spec["task"]
        kind = str(task["type"])
        index = int(task["index"])
        replicas = sum(len(hosts) for hosts in spec["cluster"].values())
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise Unusable(
            "SW4003",
            f"CLUSTER_SPEC is not what Vertex documents: {error!r}; report it, with {text[:200]!r}",
        ) from error
    if kind in ("chief", "master"):
        kind = "workerpool0"
    return f"{kind}-{index}", max(1, replicas)


def hostname_trap(address: str) -> str:
    """Why process sets would not work on this VM with a Horovod as it was released; or nothing.

    It lets them listen where the host's name leads, and forgets the interface that it was told.
    (The build that comes with Swell has this mended.)
    """
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError:
        found = "nowhere"
    if address.startswith("127.") or not (found == "nowhere" or found.startswith("127.")):
        return ""
    return f"{name} leads to {found}; a Horovod without Swell's fixes needs it to be {address}"


def _routed_address(peer: str) -> str:
    """The address of the interface that leads to ``peer``, or out; nothing is sent."""
    try:
        to = str(ipaddress.IPv4Address(peer))
    except ValueError:
        to = "192.0.2.1"  # reserved for documentation: RFC 5737
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((to, 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return str(name)
    # All of 127.0.0.0/8 belongs to the loopback interface, though it names one address only.
    return "lo" if address.startswith("127.") else ""


def _gpus() -> int:
    """How many GPUs the driver shows, without initialising CUDA in this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip()])
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0
