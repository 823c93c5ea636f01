"""What a torchrun script's processes start with: what torchrun would have put into the environment,
and a port for rank 0's to listen on.

The variables are those of torchrun's documentation. Two mean a little more here: each generation
counts as a restart, whatever ended the one before it, and TORCHELASTIC_RUN_ID is the run's.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from pathlib import Path

from trainer.protocol.world import Place, World

ROLE = "default"  # torchrun's own name for it
RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"
LOWEST_PORT = 15000
TRIES = 100


def torchrun_environment(
    place: Place,
    world: World,
    *,
    run_id: str,
    max_restarts: int,
    interface: str,
    env: Mapping[str, str],
) -> dict[str, str]:
    """Returns the variables for one process in one generation, but for MASTER_ADDR and MASTER_PORT.

    Args:
        place: where it stands.
        world: the generation's.
        run_id: the run's.
        max_restarts: what the job says.
        interface: the one that leads to the peers, for gloo, which looks for the host's name.
        env: what the process has in its environment besides.
    """
    rank, size = str(place.rank), str(place.size)
    variables = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
        "GROUP_RANK": str(world.members.index(place.member)),
        "GROUP_WORLD_SIZE": str(len(world.members)),
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": size,
        "ROLE_NAME": ROLE,
        "TORCHELASTIC_RESTART_COUNT": str(world.generation - 1),
        "TORCHELASTIC_MAX_RESTARTS": str(max_restarts),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # rank 0's process serves the store
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": env.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }
    if interface and "GLOO_SOCKET_IFNAME" not in env:
        variables["GLOO_SOCKET_IFNAME"] = interface
    if "OMP_NUM_THREADS" not in env and place.local_size > 1:
        variables["OMP_NUM_THREADS"] = "1"  # as torchrun has it
    return variables


def free_port(but: int = 0) -> int:
    """Returns a port that nobody uses on this machine, and that no connection will be given.

    Args:
        but: one that is not to be chosen: a straggler may still know it.

    Raises OSError when none is found.
    """
    end = _first_for_connections()
    for _ in range(TRIES):
        port = random.randrange(LOWEST_PORT, end) if end > LOWEST_PORT else 0
        if port and port == but:
            continue
        if (found := _bound(port)) is not None:
            return found
    raise OSError("no port is free on this machine")


def _bound(port: int) -> int | None:
    """The port, or any for 0, if it can be bound on all addresses, as the process will."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def _first_for_connections() -> int:
    """The first of the ports that the kernel gives to connections by itself."""
    try:
        return int(Path(RANGE_FILE).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
