"""State that is sent arrives bit by bit, and a sender that dies harms nobody."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from tests.trainer.ranks import in_world
from trainer.checkpoints.tree import as_bytes, flatten
from trainer.engine import transfer

CPU = torch.device("cpu")


def everything() -> dict[str, Any]:
    """A state with every kind of tensor that is out of the ordinary."""
    generator = torch.Generator().manual_seed(3)
    grid = torch.randn(6, 4, generator=generator)
    return {
        "plain": grid,
        "transposed": grid.t(),
        "strided": grid[::2, 1:3],
        "expanded": torch.ones(1).expand(5),
        "number": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0),
        "empty too": torch.empty(3, 0, 2, dtype=torch.int32),
        "odd bytes": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(7, generator=generator).to(torch.bfloat16),
        "mask": torch.tensor([True, False, True]),
        "complex": torch.tensor([1 + 2j]),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "big": torch.arange(5000),
        "optimizer": {
            "state": {0: {"step": torch.tensor(4.0)}},
            "groups": [{"lr": 0.1, "b": (1, 2)}],
        },
    }


def in_bits(tree: Any) -> tuple[Any, list[tuple[str, list[int], bytes]]]:
    """The skeleton, and of each tensor its dtype, shape and bytes."""
    skeleton, tensors = flatten(tree)
    return skeleton, [
        (str(t.dtype), list(t.shape), bytes(as_bytes(t.contiguous()).tolist())) for t in tensors
    ]


def received(root: int, chunk: int) -> tuple[Any, int]:
    import horovod.torch as hvd

    transfer.CHUNK = chunk
    tree = everything() if hvd.rank() == root else None
    found, sent = transfer.broadcast_tree(tree, root, CPU)
    return in_bits(found), sent


@pytest.mark.parametrize(
    "slots, root", [([1, 1], 0), ([1, 1, 1], 2), ([1, 2], 1), ([1], 0)], ids=str
)
@pytest.mark.parametrize("chunk", [200, 2001, 2**26])
def test_every_bit_arrives_from_any_root_in_chunks_of_any_size(
    slots: list[int], root: int, chunk: int
) -> None:
    expected = in_bits(everything())
    least = sum(len(data) for _, _, data in expected[1])
    for found, sent in in_world(slots, received, root, chunk):
        assert found == expected
        assert sent == least


def without_tensors(root: int) -> tuple[Any, int]:
    import horovod.torch as hvd

    tree = {"step": 3, "name": "é", "nothing": None} if hvd.rank() == root else None
    return transfer.broadcast_tree(tree, root, CPU)


def test_a_state_without_tensors_arrives() -> None:
    for found in in_world([1, 1], without_tensors, 1):
        assert found == ({"step": 3, "name": "é", "nothing": None}, 0)


def the_same_object() -> bool:
    tree = everything()
    found, _ = transfer.broadcast_tree(tree, 0, CPU)
    return found is tree


def test_the_root_keeps_its_own() -> None:
    assert in_world([1], the_same_object) == [True]


def of_tensors_that_are_not_views() -> bool:
    """Whether a receiver's tensors can be trained in place without touching each other."""
    import horovod.torch as hvd

    tree = {"a": torch.ones(3), "b": torch.ones(3)} if hvd.rank() == 0 else None
    found, _ = transfer.broadcast_tree(tree, 0, CPU)
    found["a"].zero_()
    return bool(found["b"].tolist() == [1, 1, 1])


def test_received_tensors_are_independent() -> None:
    assert in_world([1, 1], of_tensors_that_are_not_views) == [True, True]


def wanted_by_one(chunk: int) -> tuple[bool, int]:
    import horovod.torch as hvd

    transfer.CHUNK = chunk
    tree = everything() if hvd.rank() == 0 else None
    found, sent = transfer.broadcast_tree(tree, 0, CPU, keep=hvd.rank() == 2)
    if hvd.rank() == 2:
        return in_bits(found) == in_bits(everything()), sent
    return found is tree, sent


@pytest.mark.parametrize("chunk", [200, 2001, 2**26])
def test_whoever_has_it_already_only_takes_part(chunk: int) -> None:
    answers = in_world([1, 1, 1], wanted_by_one, chunk)
    assert [one[0] for one in answers] == [True] * 3
    assert len({one[1] for one in answers}) == 1


def while_a_rank_dies(who: int, root: int, call: int) -> tuple[str, bool]:
    """Rank ``who`` is killed before its ``call``-th broadcast of the transfer."""
    import horovod.torch as hvd
    from horovod.common.exceptions import HorovodInternalError

    transfer.CHUNK = 200
    calls = 0

    def deadly(broadcast: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call and hvd.rank() == who:
                os.kill(os.getpid(), signal.SIGKILL)
            return broadcast(*args, **kwargs)

        return counted

    hvd.broadcast_ = deadly(hvd.broadcast_)
    hvd.broadcast_async_ = deadly(hvd.broadcast_async_)
    mine = everything()
    before = in_bits(mine)
    try:
        transfer.broadcast_tree(mine if hvd.rank() == root else None, root, CPU)
    except HorovodInternalError as error:
        return type(error).__name__, in_bits(mine) == before
    return "nothing", in_bits(mine) == before


@pytest.mark.parametrize("who, root", [(1, 0), (0, 0)], ids=["receiver", "sender"])
@pytest.mark.parametrize("call", [1, 2, 5])
def test_a_peer_that_dies_is_an_error_and_what_was_held_is_untouched(
    who: int, root: int, call: int
) -> None:
    outcomes = in_world([1, 1], while_a_rank_dies, who, root, call, lost=[who])
    assert outcomes[1 - who] == ("HorovodInternalError", True)
