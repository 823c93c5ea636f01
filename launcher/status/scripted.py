"""What a torchrun script tells of its steps, which need not be each of them. Pure."""

from __future__ import annotations

from collections.abc import Collection

from launcher.status.generation import Generation, Stretch


class Scripted:
    """Takes in which steps a script has told of.

    Attributes:
        stride: steps from one that it tells of to the next, at least; 0 while that is not known.
    """

    def __init__(self) -> None:
        self.stride = 0

    def tells(
        self, world: Generation, step: int, at: float, worlds: Collection[Generation]
    ) -> None:
        """It is at ``step``. What it does again after a restart was lost, and its time.

        Args:
            world: the generation that it trains in.
            step: which it has completed.
            at: in Unix seconds.
            worlds: all generations.
        """
        if world.start is None:
            world.said, world.first_at = step, at
            world.start = max(0, step - (self.stride or 1))
        elif step > world.last:
            stride = step - world.last
            if not self.stride or stride < self.stride:
                self.stride = stride
                for one in worlds:  # where they went on from is known better now
                    one.start = one.start if one.said is None else max(0, one.said - stride)
            world.took(Stretch(world.last + 1, step, max(0.0, at - world.last_at)))
