"""A rank that is alone keeps its gradients where backward has left them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from trainer.engine.bucket import Bucket, Flat, Loose, norm_of

KINDS = [Flat, Loose]


def filled(kind: Any, *gradients: list[float] | None, dtype: torch.dtype = torch.float32) -> Bucket:
    """A bucket whose parameters have these gradients."""
    parameters = [nn.Parameter(torch.zeros(2, dtype=dtype)) for _ in gradients]
    bucket: Bucket = kind(parameters, 1)
    set_gradients(bucket, *gradients)
    return bucket


def set_gradients(bucket: Bucket, *gradients: list[float] | None) -> None:
    for parameter, gradient in zip(bucket.parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
            if not bucket.sent:
                bucket.take(parameter)


def gradients_of(bucket: Bucket) -> list[list[float] | None]:
    return [None if p.grad is None else p.grad.tolist() for p in bucket.parameters]


def test_alone_nothing_is_copied() -> None:
    bucket = filled(Loose, [1.0, 2.0])
    before = bucket.parameters[0].grad
    assert bucket.pack() == [True]
    assert bucket.parameters[0].grad is None  # what still comes, comes in memory of its own
    bucket.unpack([1.0])
    assert bucket.parameters[0].grad is before


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_reached_has_no_gradient(kind: Any) -> None:
    bucket = filled(kind, [1.0, 2.0], None)
    assert bucket.pack() == [True, False]
    bucket.divide(2.0)
    bucket.unpack([1.0, 0.0])
    assert gradients_of(bucket) == [[0.5, 1.0], None]


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_late_is_added(kind: Any) -> None:
    bucket = filled(kind, [1.0, 2.0], [3.0, 4.0], None)
    bucket.pack()
    set_gradients(bucket, [10.0, 20.0], None, [5.0, 6.0])
    bucket.pack_late()
    bucket.join()
    bucket.unpack([2.0, 1.0, 1.0])
    assert gradients_of(bucket) == [[11.0, 22.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_another_step_knows_nothing_of_the_one_before(kind: Any) -> None:
    bucket = filled(kind, [1.0, 2.0])
    bucket.pack()
    bucket.clear()
    set_gradients(bucket, [5.0, 6.0])
    assert bucket.pack() == [True]
    bucket.unpack([1.0])
    assert gradients_of(bucket) == [[5.0, 6.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_two_parameters_may_be_given_one_gradient(kind: Any) -> None:
    bucket = filled(kind, None, None)
    one = torch.ones(1).expand(2)  # in one number's memory, too
    for parameter in bucket.parameters:
        parameter.grad = one
    assert bucket.pack() == [True, True]
    bucket.divide(4.0)
    bucket.unpack([1.0, 1.0])
    assert gradients_of(bucket) == [[0.25, 0.25], [0.25, 0.25]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradients_history_ends(kind: Any) -> None:
    bucket: Bucket = kind([nn.Parameter(torch.tensor([3.0]))], 1)
    (parameter,) = bucket.parameters
    (parameter**2).sum().backward(create_graph=True)
    bucket.take(parameter)
    bucket.pack()
    bucket.unpack([1.0])
    assert parameter.grad is not None and not parameter.grad.requires_grad
    assert parameter.grad.tolist() == [6.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_norm_is_that_of_all(kind: Any, dtype: torch.dtype) -> None:
    bucket = filled(kind, [3.0, 0.0], None, [0.0, 4.0], dtype=dtype)
    bucket.pack()
    assert float(bucket.norm()) == pytest.approx(5.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_the_norm(kind: Any, bad: float) -> None:
    bucket = filled(kind, [1.0, 2.0], [bad, 3.0])
    bucket.pack()
    assert not torch.isfinite(bucket.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_that_nothing_has_reached_has_a_norm(kind: Any) -> None:
    bucket = filled(kind, None)
    assert bucket.pack() == [False]
    assert float(bucket.norm()) == 0.0


def test_a_norm_is_of_any_shape() -> None:
    image = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    assert float(norm_of(image)) == 4.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_beside_the_gradients_that_are_too_large_become_infinite(
    dtype: torch.dtype,
) -> None:
    bucket = Loose([nn.Parameter(torch.zeros(1, dtype=dtype))], 4)
    bucket.fill_tail([1.0, 1e300, math.nan, -math.inf], 0, torch.tensor(2.0, dtype=dtype))
    large = math.inf if dtype == torch.float32 else 1e300
    assert bucket.tail.tolist() == pytest.approx([3.0, large, math.nan, -math.inf], nan_ok=True)
