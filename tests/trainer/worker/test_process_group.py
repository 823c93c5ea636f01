"""Who trains by itself though a group was formed says so, and nobody who trains together does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import distributed, nn

from tests.trainer.ranks import Process
from trainer.agent.processes import free_port
from trainer.reporting import ENV_REPORT
from trainer.worker import process_group
from trainer.worker.process_group import MANY, UNUSED

Script = Callable[[], None]


def train(
    steps: int = MANY + 10,
    wrapped: Callable[[nn.Module], nn.Module] = lambda model: model,
    before: Callable[[nn.Module], object] = lambda model: None,
    kind: Any = torch.optim.SGD,
) -> None:
    """A loop with one optimizer; ``before``: what it does between a backward pass and the step."""
    model = wrapped(nn.Linear(4, 2))
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(steps):
        model(torch.ones(3, 4)).square().sum().backward()
        before(model)
        optimizer.step()
        optimizer.zero_grad()


def summed(group: Any = None) -> Callable[[nn.Module], None]:
    def sum_all(model: nn.Module) -> None:
        for one in model.parameters():
            distributed.all_reduce(one.grad, group=group)

    return sum_all


def with_two_optimizers() -> None:
    parts = [nn.Linear(4, 4), nn.Linear(4, 1)]
    optimizers = [torch.optim.Adam(part.parameters()) for part in parts]
    for _ in range(MANY):
        nn.Sequential(*parts)(torch.ones(3, 4)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()


def with_an_optimizer_for_each_parameter() -> None:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2 * MANY)]
    optimizers = [torch.optim.SGD([one], 0.1) for one in weights]
    for _ in range(3):
        torch.stack([*weights]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()


def by_ddp() -> None:
    train(wrapped=nn.parallel.DistributedDataParallel)


def by_ddp_that_sums_seldom() -> None:
    """Gradients are never summed by it; it has sent the model when it was made."""

    def unsynced(model: Any) -> nn.Module:
        model = nn.parallel.DistributedDataParallel(model)
        model.require_backward_grad_sync = False
        return model  # type: ignore[no-any-return]

    train(wrapped=unsynced)


def by_fsdp2() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    train(wrapped=lambda model: cast(nn.Module, fully_shard(model, mesh=mesh)))


def by_zero() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def kind(parameters: Any, lr: float) -> Any:
        return ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=lr)

    train(kind=kind)


def by_functions() -> None:
    from torch.distributed import _functional_collectives as functional

    def sum_all(model: nn.Module) -> None:
        for one in model.parameters():
            assert one.grad is not None
            one.grad = functional.all_reduce(one.grad, "sum", [0, 1]) + 0

    train(before=sum_all)


def by_turns() -> None:
    """From one to another, as the stages of a pipeline do."""

    def pass_on(model: nn.Module) -> None:
        for one in model.parameters():
            assert one.grad is not None
            if distributed.get_rank() == 0:
                distributed.send(one.grad, 1)
            else:
                distributed.recv(one.grad, 0)

    train(before=pass_on)


def by_rpc() -> None:
    from torch.distributed import rpc

    rank = distributed.get_rank()
    os.environ["MASTER_PORT"] = os.environ["RPC_PORT"]
    rpc.init_rpc(f"worker{rank}", rank=rank, world_size=2)
    train()
    rpc.shutdown()


def after_a_broadcast() -> None:
    def from_the_first(model: nn.Module) -> nn.Module:
        for one in model.parameters():
            distributed.broadcast(one.data, 0)
        return model

    train(wrapped=from_the_first)


ALONE: dict[str, Script] = {
    "plain": train,
    "adamw": lambda: train(kind=torch.optim.AdamW),
    "two optimizers": with_two_optimizers,
}
TOGETHER: dict[str, Script] = {
    "ddp": by_ddp,
    "ddp that sums seldom": by_ddp_that_sums_seldom,
    "fsdp2": by_fsdp2,
    "zero": by_zero,
    "functions": by_functions,
    "turns": by_turns,
    "rpc": by_rpc,
    "a broadcast": after_a_broadcast,
    "sums": lambda: train(before=summed()),
    "sums over another group": lambda: train(before=summed(distributed.new_group([0, 1]))),
    "barriers": lambda: train(before=lambda _: distributed.barrier()),
}
HARDLY: dict[str, Script] = {
    "many optimizers": with_an_optimizer_for_each_parameter,
    "few steps": lambda: train(steps=MANY - 1),
    "no step": lambda: train(steps=0),
}
SCRIPTS = {**ALONE, **TOGETHER, **HARDLY}


@pytest.mark.parametrize("script", ALONE)
def test_who_never_sends_anything_says_so_once(script: str) -> None:
    assert told(script) == UNUSED + b"\n"


@pytest.mark.parametrize("script", [*TOGETHER, *HARDLY])
def test_who_trains_together_or_hardly_says_nothing(script: str) -> None:
    assert told(script) == b""


def test_what_cannot_be_known_is_not_told() -> None:
    assert told("plain", others=("horovod",)) == b"", "it may sum in torch's place"
    assert told("plain", TORCH_DISTRIBUTED_DEBUG="DETAIL") == b"", "its groups are wrapped"


class ProcessGroupNCCL:
    """Its answers, as this machine has none."""

    def __init__(self, collectives: int, connected: bool) -> None:
        self._get_sequence_number_for_group = lambda: collectives
        self._is_initialized = lambda: connected


@pytest.mark.parametrize(
    ("collectives", "connected", "silent"), [(0, False, True), (0, True, False), (1, False, False)]
)
def test_of_nccl_also_what_goes_from_one_to_another_counts(
    collectives: int, connected: bool, silent: bool
) -> None:
    assert process_group._silent(ProcessGroupNCCL(collectives, connected)) is silent


def told(script: str, others: tuple[str, ...] = (), **variables: str) -> bytes:
    """What rank 0 of two says while they run a script."""
    ports = {"MASTER_PORT": str(free_port()), "RPC_PORT": str(free_port())}
    ranks = [
        Process(_rank, script, rank, others, {**ports, **variables}, alone=False)
        for rank in range(2)
    ]
    try:
        return [bytes(one.result()) for one in ranks][0]  # noqa: RUF015 - both are to end well
    finally:
        for one in ranks:
            one.close()


def _rank(script: str, rank: int, others: tuple[str, ...], variables: dict[str, str]) -> bytes:
    here, there = os.pipe()
    os.environ.update(variables, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    process_group.OTHERS = others  # this process has imported more than a script's
    process_group.watch({**os.environ, ENV_REPORT: str(there)})
    cast(Any, distributed).set_debug_level_from_env()
    distributed.init_process_group("gloo")
    SCRIPTS[script]()
    distributed.barrier()
    distributed.destroy_process_group()
    os.close(there)
    with os.fdopen(here, "rb") as said:
        return said.read()
