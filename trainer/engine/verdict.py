"""What becomes of ranks that differ: the text that says where, and who has to go.

A rank that stands alone against several who agree is replaced: by another process, which receives
the state of the others. Where nobody can tell who is right, and where it happens again and again,
the run ends: its newest checkpoint is of a state in which all agreed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from trainer.engine.mistake import NOT_ALIKE, Mistake, StandsAlone
from trainer.engine.replicas import Difference
from trainer.engine.state import State

REPLACED = 3  # workers in a run; more, and it is no accident
NEAR = 1e-3  # of a parameter's norm

_CAUSES = {
    "trained": (
        "SW5114",
        "requires_grad, or the models, differ",
        "let all workers freeze and unfreeze after the same step: decide by step.number, "
        "step.epoch or step.metrics",
    ),
    "updates": (
        "SW5115",
        "some have taken optimizer steps that others have not",
        "take or skip optimizer.step() on all workers alike: decide by what all of them know, "
        "such as step.metrics, and not by a worker's own loss",
    ),
    "samples": (
        "SW5116",
        "the samples that the workers compute are not those of the step",
        "a loop over split() must take all of its parts; if it does, this is a fault of Swell",
    ),
    "state": (
        "SW5117",
        "",
        "this comes of code that is not the same on all workers (an evaluation without "
        "model.eval(), a random number in an update, a value of a worker's own, a buffer that "
        "depends on the samples a worker sees), or of a machine's memory",
    ),
}


class Verdict:
    """Judges differences.

    Args:
        state: this rank's.
        emit: emits an event.
    """

    def __init__(self, state: State, emit: Callable[..., None]) -> None:
        self._state = state
        self._emit = emit

    def judge(self, difference: Difference, step: int, rank: int) -> NoReturn:
        """Ends what cannot go on. A collective: every rank has found the same difference.

        Raises StandsAlone on the rank that is to be replaced, and HorovodInternalError on the
        others; Mistake on all ranks when the run is to end.
        """
        id, what, remedy = _CAUSES[difference.field]
        if difference.field == "state":
            what = self._first(difference)
        text = f"step {step}: {sides(difference)} do not hold the same: {what}"
        alone = difference.alone
        if alone is None or self._state.workers_replaced >= REPLACED:
            if alone is not None:
                text = f"{text} (workers have been replaced for this {REPLACED} times)"
            raise Mistake(id, f"{text}; {remedy}")
        self._state.workers_replaced += 1
        others = next(one for one in range(len(difference.values)) if one != alone)
        if rank == others:
            count = self._state.workers_replaced
            self._emit("worker_replaced", step=step, rank=alone, reason=text, replaced=count)
        if rank == alone:
            raise StandsAlone(text)
        raise HorovodInternalError(f"rank {alone} is replaced: {text}")

    def require_near(self, distances: Sequence[float], step: int) -> None:
        """Raises Mistake when ranks on unlike devices have drifted apart by more than rounding.

        Args:
            distances: of each rank from rank 0 (see State.align).
            step: the last one that was completed.
        """
        far = [rank for rank, distance in enumerate(distances) if not distance <= NEAR]
        if far:
            raise Mistake(
                "SW5117",
                f"step {step}: {_ranks(far)} and rank 0 do not hold the same: parameters differ by "
                f"{max(distances):.2g} of their norm, and rounding on unlike devices explains "
                f"{NEAR:g}; {_CAUSES['state'][2]}",
            )

    def wrong_count(self, step: int, found: float, expected: int) -> NoReturn:
        """Raises Mistake: gradients of more or fewer samples were summed."""
        raise Mistake(
            "SW5116",
            f"step {step}: gradients of {found:g} samples were summed instead of {expected}; "
            f"{_CAUSES['samples'][2]}",
        )

    def divisor(self, counted: float, uncounted: float, step: int) -> float:
        """What gradients and metrics are divided by, if the program counts what it sums.

        Raises Mistake when it has counted to something that no mean is over, or when some ranks
        have counted and ``uncounted`` others have not.
        """
        if counted == 0:
            return 1.0
        if uncounted > 0.5:
            raise Mistake(
                NOT_ALIKE,
                f"step {step}: some workers have a loss that is a mean, and some one that is to be "
                "divided by what they have counted, (sum, count) or mean_over(): let it be the "
                "same always",
            )
        if 0 < counted < math.inf:
            return counted
        raise Mistake(
            "SW5118",
            f"step {step}: the loss is a mean over {counted:g} things; what is counted must be "
            "a number and more than 0 over all workers",
        )

    def _first(self, difference: Difference) -> str:
        """What differs first, found by comparing all parts of the state, one by one."""
        own = self._state.digests()
        digests = torch.tensor([_signed(one) for _, one in own], device="cpu")
        lengths, rows = [len(own)], []
        with suppress(HorovodInternalError):
            lengths = hvd.allgather(torch.tensor([len(own)], device="cpu"), name="state.parts")
            if len(set(lengths.tolist())) > 1:
                return f"their states have {sorted(set(lengths.tolist()))} parts"
            rows = hvd.allgather(digests.unsqueeze(0), name="state.digests").tolist()
        for column, (name, _) in enumerate(own):
            if len({row[column] for row in rows}) > 1:
                return f"{name} is the first that differs"
        return "a part of the state"


def sides(difference: Difference) -> str:
    """The ranks that agree with each other, as ``ranks 0, 1 and rank 2``."""
    groups: dict[int, list[int]] = {}
    for rank, value in enumerate(difference.values):
        groups.setdefault(value, []).append(rank)
    return " and ".join(map(_ranks, groups.values()))


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
