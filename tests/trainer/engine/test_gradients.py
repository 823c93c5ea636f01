"""Gradients of a world equal those of one process on the whole batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.trainer.ranks import in_world
from trainer.engine.bucket import grouped
from trainer.engine.gradients import GradientBuckets

Numbers = list[list[float]]
SAMPLES = 12


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


def gradients(module: nn.Module) -> Numbers:
    return [p.grad.flatten().tolist() for p in module.parameters() if p.grad is not None]


def of_the_whole_batch(dtype: torch.dtype = torch.float32) -> Numbers:
    module = model(dtype)
    module(batch(dtype)).square().sum().backward()
    return gradients(module)


def buckets_of(
    module: nn.Module, tail: int = 1, bucket_bytes: int | None = None, **how: Any
) -> Any:
    """The buckets of a module, in the world that this process is in."""
    import horovod.torch as hvd

    parameters = [p for p in module.parameters() if p.requires_grad]
    return GradientBuckets(parameters, tail, hvd.size(), bucket_bytes, **how)


def summed_by(buckets: Any, *numbers: float) -> list[float]:
    """Sums what has arrived, together with these numbers; returns the numbers' sums."""
    total: list[float] = buckets.reduce(lambda late: list(numbers))
    buckets.settle()
    return total


def close(one: Numbers, other: Numbers) -> bool:
    return one == [pytest.approx(numbers, rel=1e-5, abs=1e-5) for numbers in other]


# --- what the ranks run -------------------------------------------------------------------


def summed(bucket_bytes: int, dtype: torch.dtype, micro: int) -> tuple[Numbers, list[float]]:
    """This rank's part of the batch, in ``micro`` backward passes."""
    import horovod.torch as hvd

    module = model(dtype)
    buckets = buckets_of(module, 2, bucket_bytes)
    part = batch(dtype).tensor_split(hvd.size())[hvd.rank()]
    for _ in range(2):  # the second step starts from what the first one left
        buckets.zero()
        pieces = part.tensor_split(micro)
        for number, piece in enumerate(pieces):
            if number == len(pieces) - 1:
                buckets.arm()
            module(piece).square().sum().backward()
        extras = summed_by(buckets, hvd.rank(), len(part))
    return gradients(module), extras


def in_short_wires(dtype: torch.dtype) -> list[tuple[Numbers, list[float]]]:
    """The same twice: in wires that carry all, and in few that carry five numbers each."""
    from trainer.engine import wires

    whole = summed(2**22, dtype, 1)
    lengths: Any = wires
    lengths.LENGTH, lengths.UNDER_WAY = 5, 2
    return [whole, summed(2**22, dtype, 1)]


class Branches(nn.Module):
    """Each rank uses another branch, and nobody uses the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(nn.Linear(2, 1, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        out: torch.Tensor = self.branches[branch](x)
        return out


def with_unused_parameters() -> Numbers:
    import horovod.torch as hvd

    module = Branches()
    # One parameter to a bucket, so that what is not used holds up what is.
    buckets = buckets_of(module, bucket_bytes=1)
    buckets.zero()
    buckets.arm()
    module(torch.tensor([1.0, 2.0]), hvd.rank()).sum().backward()
    assert summed_by(buckets, 1.0) == [2.0]
    return gradients(module)


def where_a_rank_has_no_sample() -> Numbers:
    import horovod.torch as hvd

    module = model()
    buckets = buckets_of(module)
    buckets.zero()
    buckets.arm()
    if hvd.rank() == 0:
        module(batch()).square().sum().backward()
    assert summed_by(buckets, hvd.rank()) == [1.0]
    return gradients(module)


def after_an_interrupted_step() -> Numbers:
    """A backward pass whose sums were never waited for, as when a peer is lost."""
    module = model()
    buckets = buckets_of(module)
    module(batch()).sum().backward()
    buckets.zero()
    buckets.arm()
    module(batch()).square().sum().backward()
    assert summed_by(buckets, 1.0) == [1.0]
    return gradients(module)


def mixed_precisions() -> tuple[list[str], list[float]]:
    import horovod.torch as hvd

    first, second = nn.Linear(2, 2), nn.Linear(2, 2).to(torch.bfloat16)
    parameters = [*first.parameters(), *second.parameters()]
    buckets = GradientBuckets(parameters, 2, hvd.size())
    buckets.zero()
    buckets.arm()
    loss = first(torch.ones(2)).sum() + second(torch.ones(2, dtype=torch.bfloat16)).sum().float()
    loss.backward()
    extras = summed_by(buckets, 0.25, 4097.0)
    return [str(p.grad.dtype) for p in parameters if p.grad is not None], extras


def views() -> bool:
    module = model()
    buckets = buckets_of(module)
    places = []
    for _ in range(2):
        buckets.zero()
        buckets.arm()
        module(batch()).sum().backward()
        summed_by(buckets, 0.0)
        places.append([p.grad.data_ptr() for p in module.parameters() if p.grad is not None])
    return len(places[0]) == 4 and places[0] == places[1]


def norms(spoils: int) -> tuple[list[float], float, float]:
    """What the ranks' norms are said to be, this rank's, and that of the sums."""
    import horovod.torch as hvd

    module, rank = model(), hvd.rank()
    buckets = buckets_of(module, hvd.size(), 100)
    buckets.zero()
    buckets.arm()
    part = batch().tensor_split(hvd.size())[rank]
    module(part).square().sum().backward()
    given = [p.grad for p in module.parameters() if p.grad is not None]
    if rank == spoils:
        given[1][0] = math.inf  # by a program, at last
    own = float(torch.cat([one.flatten() for one in given]).norm())
    told = buckets.reduce(lambda late: [0.0] * hvd.size(), norm_at=rank)
    buckets.settle()
    return told, own, buckets.norm()


def numbers_of_any_size() -> list[float]:
    module = model()
    buckets = buckets_of(module, 3)
    buckets.zero()
    buckets.arm()
    module(batch()).square().sum().backward()
    return summed_by(buckets, 1e300, float("-inf"), 0.5)


class Enough(Exception):
    """Nobody waits for these gradients any more."""


def a_backward_pass_that_is_ended() -> tuple[int, Numbers]:
    """Returns how many parameters it reached, and the gradients of the step after it."""
    reached = 0
    over = True

    def check() -> None:
        nonlocal reached
        reached += 1
        if over and reached == 2:
            raise Enough

    module = model()
    buckets = buckets_of(module, check=check)
    buckets.zero()
    buckets.arm()
    with pytest.raises(Enough):
        module(batch()).square().sum().backward()
    so_far, over = reached, False
    buckets.zero()
    buckets.arm()
    module(batch()).square().sum().backward()
    assert summed_by(buckets, 1.0) == [1.0]
    return so_far, gradients(module)


# --- what they must find --------------------------------------------------------------------


@pytest.mark.parametrize("slots", [[1, 1], [1, 1, 1], [2, 1]], ids=str)
@pytest.mark.parametrize("bucket_bytes", [1, 100, 2**22])
def test_every_rank_has_the_gradients_of_the_whole_batch(
    slots: list[int], bucket_bytes: int
) -> None:
    size = sum(slots)
    for found, extras in in_world(slots, summed, bucket_bytes, torch.float32, 1):
        assert close(found, of_the_whole_batch())
        assert extras == [sum(range(size)), SAMPLES]


def test_a_lone_world_has_them_too() -> None:
    ((found, extras),) = in_world([1], summed, 100, torch.float32, 1)
    assert close(found, of_the_whole_batch())
    assert extras == [0, SAMPLES]


def test_micro_batches_add_up() -> None:
    for found, extras in in_world([1, 1], summed, 100, torch.float32, 3):
        assert close(found, of_the_whole_batch())
        assert extras == [1, SAMPLES]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_gradients_travel_and_counts_stay_exact(dtype: torch.dtype) -> None:
    for found, extras in in_world([1, 1], summed, 100, dtype, 1):
        expected = of_the_whole_batch(dtype)
        assert found == [pytest.approx(numbers, rel=0.05, abs=0.1) for numbers in expected]
        assert extras == [1, SAMPLES]


def test_low_precision_gradients_are_the_same_in_few_short_wires() -> None:
    for whole, short in in_world([1, 1], in_short_wires, torch.bfloat16):
        assert short == whole


def test_parameters_of_several_precisions_have_buckets_of_their_own() -> None:
    for dtypes, extras in in_world([1, 1], mixed_precisions):
        assert dtypes == ["torch.float32"] * 2 + ["torch.bfloat16"] * 2
        assert extras == [0.5, 8194.0]


def test_parameters_that_a_rank_does_not_use_hold_nobody_up() -> None:
    for found in in_world([1, 1], with_unused_parameters):
        assert found == [[1.0, 2.0], [1.0, 2.0]], "and the last has none"


def test_a_rank_without_a_sample_takes_part() -> None:
    for found in in_world([1, 1], where_a_rank_has_no_sample):
        assert close(found, of_the_whole_batch())


def test_what_an_interrupted_step_left_is_forgotten() -> None:
    (found,) = in_world([1], after_an_interrupted_step)
    assert close(found, of_the_whole_batch())


def test_a_backward_pass_can_be_ended_on_the_way() -> None:
    ((reached, found),) = in_world([1], a_backward_pass_that_is_ended)
    assert reached == 2  # of 4
    assert close(found, of_the_whole_batch())


@pytest.mark.parametrize("spoils", [0, 1, 2])
def test_norms_of_the_ranks_tell_whose_gradients_are_not_finite(spoils: int) -> None:
    found = in_world([1, 1], norms, spoils)
    for told, _, summed in found:
        finite = [math.isfinite(one) for one in told]
        assert finite == [rank != spoils for rank in range(2)]
        assert math.isfinite(summed) == all(finite)
        assert not all(finite) or 0 < summed <= sum(told)
        for one, (_, own, _) in zip(told, found, strict=True):
            assert one >= own * 0.999 or not math.isfinite(one)


def test_a_number_that_is_too_large_arrives_as_infinite() -> None:
    assert in_world([1, 1], numbers_of_any_size) == [[math.inf, -math.inf, 1.0]] * 2


def test_gradients_stay_where_they_are() -> None:
    assert in_world([1, 1], views) == [True, True]


def test_what_fills_a_bucket_is_alone_and_what_is_small_is_together() -> None:
    parameters = [nn.Parameter(torch.zeros(numel)) for numel in (2, 9, 2, 9, 2, 9)]
    groups = grouped(parameters, 36)
    assert [[len(p) for p in group] for group in groups] == [[9], [9], [2, 2, 2], [9]]


PARAMETERS = st.lists(
    st.builds(
        lambda numel, dtype: nn.Parameter(torch.zeros(numel, dtype=dtype)),
        st.integers(0, 50),
        st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    ),
    min_size=1,
)


@given(PARAMETERS, st.integers(1, 500))
def test_groups_come_in_the_order_of_their_last_with_one_precision_each_within_the_limit(
    parameters: list[nn.Parameter], limit: int
) -> None:
    groups = grouped(parameters, limit)
    places = {id(p): place for place, p in enumerate(parameters)}
    found = [[places[id(p)] for p in group] for group in groups]
    assert sorted(place for group in found for place in group) == sorted(places.values())
    assert all(group == sorted(group) for group in found)
    assert [group[-1] for group in found] == sorted(group[-1] for group in found)
    for group in groups:
        assert len({p.dtype for p in group}) == 1
        assert len(group) == 1 or sum(p.numel() * p.element_size() for p in group) <= limit
