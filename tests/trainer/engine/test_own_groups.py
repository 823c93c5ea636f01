"""Which errors of a program's own collectives say that a peer is gone."""

from __future__ import annotations

import pytest
import torch.distributed
from horovod.common.exceptions import HorovodInternalError

from trainer.engine.mistake import Mistake
from trainer.engine.own_groups import leave, losses, lost, unalike

PAIR = "[/third_party/gloo/gloo/transport/tcp/pair.cc:553] "


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{PAIR}Connection closed by peer [10.0.0.2]:1443. This is typical"),
        RuntimeError(f"Gloo connectFullMesh failed with {PAIR}Connection refused"),
        torch.distributed.DistNetworkError("failed to recv, got 0 bytes"),
        torch.distributed.DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:1, remote process exited or there was an error\n"
            "ncclRemoteError: A call failed possibly due to a network error"
        ),
    ],
)
def test_a_peer_that_is_gone_is_no_fault_of_the_programs(error: RuntimeError) -> None:
    assert lost(error)
    with pytest.raises(HorovodInternalError) as raised, losses():
        raise error
    assert raised.value.__cause__ is error
    assert str(raised.value) == str(error).partition("\n")[0]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Connection closed by peer"),  # who knows whose
        RuntimeError(f"{PAIR}Timed out waiting 1800000ms for recv operation to complete"),
        torch.distributed.DistNetworkError("The client socket has timed out after 60000ms"),
        torch.distributed.DistBackendError("NCCL error: ncclInvalidUsage, Duplicate GPU detected"),
        ValueError("Default process group has not been initialized"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_everything_else_is_what_it_was(error: Exception) -> None:
    assert not lost(error)
    with pytest.raises(type(error)) as raised, losses():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "text",
    [
        "Mismatched allreduce tensor shapes: One or more ranks sent tensors of shape [2]",
        "Requested to allreduce a tensor with the same name as another tensor that is currently",
    ],
)
def test_what_ranks_do_not_ask_for_alike_is_a_mistake_in_every_world(text: str) -> None:
    error = HorovodInternalError(text)
    assert unalike(error) and not lost(error)
    with (
        pytest.raises(Mistake, match=r"ranks do not ask for the same collective .*: \w+ "),
        losses(),
    ):
        raise error
    gone = HorovodInternalError("Connection closed by peer")
    assert not unalike(gone)
    with pytest.raises(HorovodInternalError) as raised, losses():
        raise gone
    assert raised.value is gone


def test_without_a_group_there_is_none_to_leave() -> None:
    leave()
    assert not torch.distributed.is_initialized()
