"""State that survives: what a worker holds, in a form that can be sent to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch

from trainer.engine.agreement import Agreement, Holding, Loop
from trainer.engine.device import kind_of
from trainer.engine.learned import Learned
from trainer.engine.mistake import Mistake

# Sends the root's tree to all ranks: (the tree, or None elsewhere; whether this rank wants it)
# -> (the tree, bytes sent).
Sender = Callable[[Any | None, bool], tuple[Any, int]]


class Portable:
    """What the elastic engine needs of a state; a base class.

    Attributes:
        step: steps completed.
        clean: whether the state is that of ``step`` exactly (not in the middle of an
            update) and was trained or received, not merely initialised.
        speed: samples per second that this worker computes; 0 when it is not known.
        loop: what this worker's program loops over.
        fits, cap: see trainer.engine.micro_batch.
        again: whether what follows the block of the newest step was broken off.
        learned: what its steps have shown.
        torn: what has changed in a step that was not taken, and could not be put back; "" if the
            state is none that nobody can use.
    """

    step: int = 0
    clean: bool = False
    speed: float = 0.0
    loop: Loop = Loop()
    fits: int = 0
    cap: int = 0
    again: bool = False
    learned: Learned = Learned()
    torn: str = ""

    def tear(self, what: str) -> None:
        """The state is nobody's to copy: ``what`` has changed, and could not be put back."""
        self.clean, self.torn = False, what

    def prepare(self) -> torch.device:
        """Makes ready for a generation, and says where received tensors belong.

        Called before each one; the first time, it moves to its device what is not there.
        """
        return torch.device("cpu")

    def export(self) -> Any:
        """The state as a tree of tensors and plain values (see trainer.checkpoints.tree)."""
        raise NotImplementedError

    def load(self, tree: Any) -> None:
        """Takes over a state that ``export`` made, here or elsewhere."""
        raise NotImplementedError

    def restore(self) -> bool:
        """Loads the newest valid checkpoint. A collective: every rank must call it.

        Returns whether all ranks hold it now; False leaves the state at step 0.
        """
        return False

    @property
    def holding(self) -> Holding:
        """What this worker tells the others that it holds."""
        kind = kind_of(self.prepare())
        return Holding(
            self.step,
            self.clean,
            self.speed,
            self.loop,
            kind,
            self.fits,
            self.cap,
            self.again,
            self.learned.number,
        )

    def adopt(self, agreed: Agreement, send: Sender) -> int:
        """Makes all ranks hold the state of the agreement's root. A collective.

        Returns how many bytes were sent: 0 when nobody needed any. Raises
        HorovodInternalError when a peer is lost; what was held before is untouched then.
        """
        sending = hvd.rank() == agreed.root
        sent = 0
        if not agreed.held and self.restore():
            self.clean, self.torn = True, ""
            return sent
        if not agreed.held and (self.torn or any(one.step for one in agreed.holdings)):
            what, step = self.torn or "the state", agreed.holdings[agreed.root].step + 1
            raise Mistake(
                "SW5134",
                f"a worker was lost in step {step} when all others had changed "
                f"{what} already, which cannot be put back, and there is no checkpoint to go back "
                "to; let checkpoints be written, and collectives of your own come before "
                "optimizer.step()",
            )
        if not agreed.unanimous and len(agreed.holdings) > 1:
            wants = not sending and not agreed.is_held_by(self.holding)
            tree, sent = send(self.export() if sending else None, wants)
            if wants:
                self.load(tree)
        self.clean, self.torn = True, ""
        return sent
