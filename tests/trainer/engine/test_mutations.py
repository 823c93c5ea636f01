"""Faults that are put into the engine on purpose are noticed by the run that has them.

Each begins in the middle of a run, on one rank or on all. The state is examined every few steps
here, and not by what that costs, so that the runs are short. With REAL_INTERVAL=1 it is examined
when Swell itself would do so; that takes minutes.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import trained

REAL = "REAL_INTERVAL" in os.environ
SAMPLES, BATCH, STEPS = 24, 8, 12_000 if REAL else 60
FROM = 137 if REAL else 12  # the step from which there is a fault
EVERY = 10  # steps from one examination to the next, unless it is the real interval
X = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

Fault = Callable[["Now"], None]


class Now:
    """Where the run is, for faults that begin in the middle of it."""

    step: Any = None

    def faulty(self, rank: int | None = 1) -> bool:
        """Whether there is a fault now, on this rank; None is on all."""
        now = self.step
        return now is not None and now.number >= FROM and rank in (None, now.rank)


def run(fault: Fault, log: list[Any], total: int = STEPS) -> None:
    from trainer import elastic
    from trainer.engine import gradients, replicas

    if not REAL:
        settings: Any = replicas
        settings.SHARE, settings.LEAST = 1e9, EVERY
    sizes: Any = gradients
    sizes.BUCKET_BYTES = 64  # several buckets
    now = Now()
    fault(now)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 1))
    model = model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), total=total):
        now.step = step
        model[0].requires_grad_(step.number != FROM)
        with step:
            for part in step.split(4):
                (model(X[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        running: Any = elastic.running()
        every = running._sums.replicas.every
        log.append((step.number, every, [p.detach().sum().item() for p in model.parameters()]))


def patched(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replaces a function of the engine by what ``make`` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


# --- the faults ------------------------------------------------------------------------------


def a_bucket_is_not_sent(now: Now) -> None:
    from trainer.engine.gradients import GradientBuckets

    patched(
        GradientBuckets,
        "_submit",
        lambda submit: (
            lambda self, wire, name: (
                None if name == "gradients.0" and now.faulty(None) else submit(self, wire, name)
            )
        ),
    )


def a_bucket_is_summed_twice(now: Now) -> None:
    from trainer.engine.gradients import GradientBuckets

    def make(wait: Any) -> Any:
        def twice(self: Any) -> None:
            wait(self)
            if now.faulty(None):
                self._buckets[0].gradients.mul_(2)

        return twice

    patched(GradientBuckets, "_wait_for_all", make)


def a_buffer_is_stale(now: Now) -> None:
    from trainer.engine.bucket import Flat

    def make(take: Any) -> Any:
        def stale(self: Any, parameter: Any) -> None:
            if now.faulty():
                parameter.grad = self.places[id(parameter)]
            else:
                take(self, parameter)

        return stale

    patched(Flat, "take", make)


def gradients_end_at_other_parameters(now: Now) -> None:
    from trainer.engine.bucket import Flat

    def make(unpack: Any) -> Any:
        def moved(self: Any, reached: Any) -> None:
            unpack(self, reached)
            weights = [p for p in self.parameters if p.shape == (4,)]
            if now.faulty(None) and len(weights) > 1:
                weights[0].grad, weights[1].grad = weights[1].grad, weights[0].grad

        return moved

    patched(Flat, "unpack", make)


def a_bucket_goes_too_early(now: Now) -> None:
    from trainer.engine.gradients import GradientBuckets

    def make(arrived: Any) -> Any:
        def early(self: Any, parameter: Any) -> None:
            arrived(self, parameter)
            while now.faulty(None) and self._next < len(self._buckets) - 1:
                self._send()  # most of its gradients are still to come

        return early

    patched(GradientBuckets, "_arrived", make)


def what_came_late_is_dropped(now: Now) -> None:
    from trainer.engine.gradients import GradientBuckets

    a_bucket_goes_too_early(now)
    patched(GradientBuckets, "reduce_late", lambda late: lambda self: self._wait_for_all())


def one_divides_otherwise(now: Now) -> None:
    from trainer.engine.gradients import GradientBuckets

    patched(
        GradientBuckets,
        "settle",
        lambda settle: lambda self, by=1.0: settle(self, 3.0 if now.faulty() else by),
    )


def statistics_stay_ones_own(now: Now) -> None:
    from trainer.engine.statistics import Statistics

    patched(
        Statistics,
        "settle",
        lambda settle: lambda self, added: None if now.faulty() else settle(self, added),
    )


def the_slice_of_another_rank(now: Now) -> None:
    from trainer.engine.dealing import Dealer

    def make(deal: Any) -> Any:
        def other(self: Any, step: int, rank: int, *rest: Any) -> Any:
            return deal(self, step, 0 if now.faulty() else rank, *rest)

        return other

    patched(Dealer, "deal", make)


def another_order_on_one_rank(now: Now) -> None:
    from trainer.engine.dealing import Dealer
    from trainer.engine.digest import Prefixes

    def make(stretch_with: Any) -> Any:
        def other(self: Any, *args: Any) -> Any:
            found = stretch_with(self, *args)
            if not now.faulty():
                return found
            samples = found.samples.flip(0)
            return replace(found, samples=samples, prefixes=Prefixes(samples))

        return other

    patched(Dealer, "_stretch_with", make)


def a_sample_is_left_out(now: Now) -> None:
    from trainer.engine.step import Step

    whole: Any = Step
    right = whole.indices.fget

    def indices(self: Any) -> Any:
        return right(self)[:-1] if now.faulty() else right(self)

    whole.indices = property(indices)


def an_update_is_taken_twice(now: Now) -> None:
    def make(step: Any) -> Any:
        def twice(self: Any, *args: Any) -> Any:
            if now.faulty():
                with torch.no_grad():
                    for group in self.param_groups:
                        for p in group["params"]:
                            if p.grad is not None:
                                p -= group["lr"] * p.grad
            return step(self, *args)

        return twice

    patched(torch.optim.SGD, "step", make)


def an_update_is_left_out(now: Now) -> None:
    from trainer.engine.step import Step

    def make(before: Any) -> Any:
        def skipping(self: Any, optimizer: Any, *rest: Any) -> Any:
            found = before(self, optimizer, *rest)
            if now.faulty():
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        p.grad = None
            return found

        return skipping

    patched(Step, "before_update", make)


def momentum_is_lost(now: Now) -> None:
    def make(step: Any) -> Any:
        def forgetful(self: Any, *args: Any) -> Any:
            if now.faulty() and now.step.number == FROM:
                self.state.clear()
            return step(self, *args)

        return forgetful

    patched(torch.optim.SGD, "step", make)


def a_bit_flips(now: Now) -> None:
    def make(step: Any) -> Any:
        def flipped(self: Any, *args: Any) -> Any:
            out = step(self, *args)
            if now.faulty() and now.step.number == FROM:
                with torch.no_grad():
                    bits = self.param_groups[0]["params"][0].view(torch.int64)
                    bits[0, 0] ^= 1 << 20  # of 52: the last ones may be rounded away
            return out

        return flipped

    patched(torch.optim.SGD, "step", make)


def what_is_trained_is_not_followed(now: Now) -> None:
    from trainer.engine.trained import Trained

    patched(
        Trained,
        "follow",
        lambda follow: lambda self: False if now.faulty() else follow(self),
    )
    patched(Trained, "require_unchanged", lambda require: lambda self: None)


NOTICED: dict[Fault, str] = {
    a_bucket_is_not_sent: "not summed rightly|is the first that differs",
    a_bucket_is_summed_twice: "not summed rightly",
    a_buffer_is_stale: "a gradient was lost on its way",
    gradients_end_at_other_parameters: "not summed rightly",
    what_came_late_is_dropped: "not summed rightly",
    one_divides_otherwise: "is the first that differs|not summed rightly",
    statistics_stay_ones_own: "model.1.running_mean is the first that differs",
    the_slice_of_another_rank: "the samples that the workers compute are not those of the step",
    another_order_on_one_rank: "the samples that the workers compute are not those of the step",
    a_sample_is_left_out: "the samples that the workers compute are not those of the step",
    an_update_is_taken_twice: "is the first that differs",
    an_update_is_left_out: "is the first that differs",
    momentum_is_lost: "is the first that differs",
    a_bit_flips: "is the first that differs",
    what_is_trained_is_not_followed: "do not train the same parameters|requires_grad, or",
}


@pytest.mark.parametrize("fault", NOTICED, ids=lambda one: one.__name__)
def test_a_fault_in_the_engine_is_noticed(fault: Fault) -> None:
    found = trained(2, functools.partial(run, fault))
    # One rank may find it by itself; the others lose it then, and the run has failed.
    errors = [outcome.error for outcome in found if outcome.error]
    assert errors, "nobody has noticed"
    for error in errors:
        assert re.search(NOTICED[fault], error), error
    completed = max(len(outcome.log) for outcome in found)
    every = max((told for outcome in found for _, told, _ in outcome.log[FROM - 2 :]), default=0)
    assert completed <= FROM + every, f"noticed after {completed - FROM} steps"


def nothing(now: Now) -> None:
    """No fault."""


def a_hook_is_skipped(now: Now) -> None:
    from trainer.engine.gradients import GradientBuckets

    def make(arrived: Any) -> Any:
        def skipping(self: Any, parameter: Any) -> None:
            if not (now.faulty() and parameter.numel() == 16):
                arrived(self, parameter)

        return skipping

    patched(GradientBuckets, "_arrived", make)


@pytest.mark.parametrize("fault", [a_hook_is_skipped, a_bucket_goes_too_early])
def test_what_is_mended_on_the_way_trains_as_ever(fault: Fault) -> None:
    total = FROM + 48
    expected = trained(2, functools.partial(run, nothing, total=total))
    found = trained(2, functools.partial(run, fault, total=total))
    assert [one.error for one in [*expected, *found]] == [""] * 4
    trained_by_one, trained_by_two = ([numbers for *_, numbers in one.log] for one in found)
    assert trained_by_one == trained_by_two
    for number, numbers in enumerate(trained_by_one, 1):
        wanted = expected[0].log[number - 1][-1]
        assert numbers == pytest.approx(wanted, rel=1e-9), f"step {number}"
