"""What Horovod reads from the environment at every ``hvd.init()``."""

from __future__ import annotations

import math

from trainer.agent.rendezvous import host_key
from trainer.protocol.world import Place


def horovod_environment(
    place: Place, *, interface: str, rendezvous_port: int, gloo_timeout: float
) -> dict[str, str]:
    """Returns the variables for one worker in one generation.

    Args:
        place: where it stands.
        interface: the network interface for gloo; empty to let gloo choose.
        rendezvous_port: where its agent serves the generation's rendezvous, on 127.0.0.1.
        gloo_timeout: seconds after which a collective without an answer fails.
    """
    env = {
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank),
        "HOROVOD_CROSS_SIZE": str(place.cross_size),
        "HOROVOD_HOSTNAME": host_key(place.member),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(rendezvous_port),
        "HOROVOD_GLOO_RENDEZVOUS_COLUMNS": "1",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(math.ceil(gloo_timeout)),
        "HOROVOD_IDLE_CYCLE_TIME": "100",  # milliseconds; see containers/patches/0009
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        # Turns on NCCL's asynchronous error checks.
        "HOROVOD_ELASTIC": "1",
    }
    if interface:
        env["HOROVOD_GLOO_IFACE"] = interface
    return env
