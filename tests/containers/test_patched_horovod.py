"""What only a patched Horovod does, as far as no other test shows it."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Mapping

from tests.trainer.ranks import Meeting, Process, alone, world_of

CLONE_NEWUTS = 0x04000000


def peers_beside_a_process_set(env: Mapping[str, str]) -> set[str]:
    """The addresses that this rank of three is connected to, when two of them are a process set."""
    import horovod.torch as hvd
    import psutil

    # A name that leads to another interface's address; it takes root to have one's own.
    if ctypes.CDLL(None).unshare(CLONE_NEWUTS) == 0:
        socket.sethostname("127.0.0.2")
    os.environ.update(env)
    hvd.init(process_sets=[hvd.ProcessSet([0, 1])])
    try:
        connections = psutil.Process().net_connections("tcp")
        hvd.barrier()  # whoever leaves takes its connections along
        return {one.raddr.ip for one in connections if one.raddr}
    finally:
        hvd.shutdown()


def test_a_process_set_listens_where_the_world_does() -> None:
    """Not where the host's name leads. (Without root this shows it only if that is elsewhere.)"""
    with Meeting(world_of(1, 1, 1)) as meeting:
        ranks = [Process(peers_beside_a_process_set, env) for env in meeting.environments]
        try:
            assert [rank.result() for rank in ranks] == [{"127.0.0.1"}] * 3
        finally:
            for rank in ranks:
                rank.close()


def sums_of_two_inits() -> list[float]:
    """In a world of one."""
    import horovod.torch as hvd
    import torch

    os.environ["HOROVOD_GLOO_IFACE"] = "lo"
    os.environ |= {"HOROVOD_FUSION_THRESHOLD": "1000000", "HOROVOD_CYCLE_TIME": "2"}
    sums = []
    for _ in range(2):
        hvd.init()
        sums.append(hvd.allreduce(torch.ones(1), op=hvd.Sum).item())
        hvd.shutdown()
    return sums


def test_parameters_from_the_environment_survive_a_second_init() -> None:
    assert alone(sums_of_two_inits) == [1.0, 1.0]
