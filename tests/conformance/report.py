"""What a member tells of a case, and where that differs from what it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.conformance.journey import Stage
from tests.conformance.training import STEPS, Trained

# Of float64, whose sums in another order differ by 1e-14. That also serves what is discontinuous,
# as the signs of Rprop and the bfloat16 of Muon are: numbers this close to each other are on the
# same side of a jump, but for one in 10^10 or so.
RTOL = 1e-9
ATOL = 1e-12


@dataclass(frozen=True)
class Report:
    """What one member tells of a case.

    Attributes:
        trained: what it has in the end.
        started: the (generation, rank, first step) of its worlds.
        failed: why it left worlds that failed, by their generation.
    """

    trained: Trained
    started: list[tuple[int, int, int]]
    failed: dict[int, str]


def differences(plain: Trained, report: Report, stages: list[Stage], member: int) -> Iterator[str]:
    """What a member tells otherwise than it should; of losses and of parameters, the first.

    Args:
        plain: what plain training came to.
        report: what the member tells.
        stages: the worlds of the case.
        member: its number.
    """
    broken = {generation for generation, stage in enumerate(stages, 1) if stage.dies is not None}
    if {*report.failed} - broken:
        yield f"worlds failed: {report.failed}"
    should = [
        (generation, stage.members.index(member), stage.first)
        for generation, stage in enumerate(stages, 1)
        if member in stage.members
    ]
    if report.started != should:
        yield f"it was in the worlds {report.started} instead of {should}"
    steps = [*range(should[0][2], STEPS + 1)]
    if [*report.trained.losses] != steps:
        yield f"it took the steps {[*report.trained.losses]} instead of {steps}"
    for step in steps:
        if off := _off(_loss(report.trained, step), _loss(plain, step)):
            yield f"the loss of step {step} is {off}"
            break
    for name, wanted in plain.parameters.items():
        if off := _off(report.trained.parameters[name], wanted):
            yield f"{name} is {off}"
            break


def _loss(trained: Trained, step: int) -> Tensor:
    return torch.tensor(trained.losses.get(step, torch.nan), dtype=torch.float64)


def _off(found: Tensor, wanted: Tensor) -> str:
    """By how much numbers differ at most, in words; nothing if that is allowed."""
    by = (found - wanted).abs()
    excess = by - RTOL * wanted.abs() - ATOL
    if bool((excess <= 0).all()):
        return ""
    worst = int(excess.flatten().argmax())  # what is no number counts as the most
    return (
        f"{found.flatten()[worst]:.12g} instead of {wanted.flatten()[worst]:.12g}, "
        f"off by {by.flatten()[worst]:.2g}"
    )
