"""How the learning rate goes over a run: by name, in steps or samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer.engine.mistake import Mistake

Shape = Literal["constant", "linear", "cosine", "wsd"]
Unit = Literal["steps", "samples"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step, as a factor of what the optimizer's groups began with.

    It rises linearly in the warm-up, and then goes by its shape. As a step takes the same samples
    in every world, it depends on no world either.

    Attributes:
        shape: ``constant``; ``linear`` or ``cosine``, which fall until the end of the run; ``wsd``
            (warm-up, stable, decay), which falls linearly at the end alone.
        warmup: how long the warm-up is; the first step after it has the whole rate.
        decay: how long the fall of ``wsd`` is; None for a tenth of the run.
        floor: the factor that the fall ends at, from 0 to 1.
        counted_in: what ``warmup`` and ``decay`` count: ``steps``, or ``samples`` (a step has the
            global batch of them).
    """

    shape: Shape = "cosine"
    warmup: float = 0
    decay: float | None = None
    floor: float = 0.0
    counted_in: Unit = "steps"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("shape", self.shape, get_args(Shape)),
            ("counted_in", self.counted_in, get_args(Unit)),
        ):
            if value not in known:
                raise _mistake(f"{name} is {value!r}; write {_listed(known)}")
        if self.decay is not None and self.shape != "wsd":
            raise _mistake(f"decay is for wsd alone, and the shape is {self.shape}")
        for name, number in (("warmup", self.warmup), ("decay", self.decay or 0)):
            if not (math.isfinite(number) and number >= 0):
                raise _mistake(f"{name} is {number}; write 0 or more {self.counted_in}")
        if not 0 <= self.floor <= 1:
            raise _mistake(f"floor is {self.floor}; it is a factor from 0 to 1")

    @classmethod
    def of(cls, given: Schedule | str) -> Schedule:
        """The schedule that a task gives, or that of the shape that it names."""
        return cls(shape=given) if isinstance(given, str) else given  # type: ignore[arg-type]

    def factors(self, total_steps: int, batch: int) -> Callable[[int], float]:
        """Returns the factor of each step, by the number of steps before it.

        Args:
            total_steps: of the whole run.
            batch: samples of a step.

        Raises Mistake when warm-up and decay are longer than the run.
        """
        each = batch if self.counted_in == "samples" else 1
        warmup = self.warmup / each
        decay = total_steps / 10 if self.decay is None else self.decay / each
        fall = {"constant": 0.0, "wsd": decay}.get(self.shape, total_steps - warmup)
        if warmup + max(fall, 0) > total_steps:
            raise _mistake(
                f"its warm-up{' and decay take' if self.shape == 'wsd' else ' takes'} "
                f"{warmup + max(fall, 0):g} steps, and the run has {total_steps}"
            )
        begin = total_steps - fall

        def factor(done: int) -> float:
            if done < warmup:
                return (done + 1) / (warmup + 1)
            if fall <= 0 or done < begin:
                return 1.0
            part = min((done - begin) / fall, 1.0)
            left = (1 + math.cos(math.pi * part)) / 2 if self.shape == "cosine" else 1 - part
            return self.floor + (1 - self.floor) * left

        return factor

    def scheduler(self, optimizer: Optimizer, total_steps: int, batch: int) -> LambdaLR:
        """Returns a scheduler of it, to be stepped once after each step. Raises as ``factors``."""
        return LambdaLR(optimizer, self.factors(total_steps, batch))


def _listed(known: tuple[str, ...]) -> str:
    return f"{', '.join(known[:-1])} or {known[-1]}"


def _mistake(what: str) -> Mistake:
    return Mistake("SW5141", f"the schedule of the learning rate: {what}")
