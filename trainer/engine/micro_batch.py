"""How many samples go into one backward pass: never more than have been seen to fit.

A smaller world means larger shares, and a preemption must not become an error for want of memory.
So a share is taken whole at first; what has once been taken in one pass is known to fit, and a
larger share comes in parts of that size. Where memory runs out nevertheless, the size is halved and
the step is taken again. All ranks go by the same numbers, which they tell each other when a world
begins: on unlike devices by the least that fitted anywhere.

A unit (trainer.engine.units) is never halved: its numbers would be others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.engine.agreement import Agreement
from trainer.engine.mistake import Mistake
from trainer.engine.portable import Portable

# What torch says when the CPU's memory is exhausted; a GPU's has a class of its own.
_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


class MicroBatch:
    """The size of parts. It is kept with a worker's state, and told with it.

    Args:
        state: its ``fits`` are the most samples that went through one pass here, 0 if there was
            none; its ``cap`` is what is never exceeded any more, 0 for no such limit.
    """

    def __init__(self, state: Portable) -> None:
        self._state = state

    def enter(self, agreed: Agreement) -> None:
        """The ranks of a world have told each other what fits."""
        self._state.fits, self._state.cap = agreed.fits, agreed.cap

    def split(self, samples: Tensor, most: int | None) -> tuple[Tensor, ...]:
        """A share in parts of at most ``most`` samples, or of as many as are known to fit."""
        count = samples.numel()
        if not count:
            return ()
        limits = [most or self._state.fits or count, self._state.cap or count]
        size = min(limits)
        if size >= count:
            return (samples,)
        if most and size == most:
            return tuple(samples.split(most))
        return tuple(samples.tensor_split(-(-count // size)))

    def fitted(self, parts: Sequence[Tensor]) -> None:
        """A step was applied whose backward passes took these parts."""
        fits = max([one.numel() for one in parts], default=0)
        if fits > self._state.fits:
            self._state.fits = fits

    def require_room(self, error: BaseException, step: int, units: Sequence[Tensor] | None) -> None:
        """Raises Mistake when memory ran out by units: they are the same in every world.

        Args:
            error: what has ended the step.
            step: its number.
            units: this rank's; None if it is not computed by units.
        """
        if units is not None and ran_out(error):
            raise Mistake(
                "SW5148",
                f"step {step}: memory ran out, and a unit of {max(map(len, units), default=0)} "
                "samples cannot be halved, as its numbers would be others; set fewer samples "
                "(unit or micro_batch of a Task, unit in batches(…, unit=…)), or save memory "
                f"elsewhere ({error})".splitlines()[0],
            ) from error

    def halve(self, error: BaseException, parts: Sequence[Tensor]) -> bool:
        """Takes smaller parts from now on, if that can help against ``error``."""
        largest = max(map(len, parts), default=0)
        if not ran_out(error) or largest < 2:
            return False
        self._state.cap = largest // 2
        self._state.fits = min(self._state.fits, self._state.cap)
        return True


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(one in str(error) for one in _CPU_OUT_OF_MEMORY)
