"""The ``hvd.elastic`` state that a script holds: how far it is, and what a checkpoint has of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from horovod.common.elastic import ObjectState

from trainer.checkpoints.restore import FOREIGN, ORIGIN, PARTS
from trainer.engine.agreement import Agreement
from trainer.engine.contents import digests_of, tensors_of
from trainer.engine.digest import combined
from trainer.engine.mistake import Mistake
from trainer.engine.portable import Portable, Sender
from trainer.engine.state import load_part
from trainer.rundir.names import OPTIMIZER


class ScriptState(Portable):
    """What a worker knows of its script's state. The script itself holds and synchronises it.

    Attributes:
        committed: steps completed at the last commit.
        kept: the TorchState, or other ObjectState, that checkpoints hold; None until the script
            names one.
    """

    def __init__(self) -> None:
        self.committed = 0
        self.kept: ObjectState | None = None

    def adopt(self, agreed: Agreement, send: Sender) -> int:
        """Nothing is sent here: the script synchronises its own state."""
        self.step = agreed.holdings[agreed.root].step
        return 0

    def keep(self, state: Any) -> None:
        """From now on ``state`` is what checkpoints hold.

        Raises ValueError for a second state, and TypeError for what is no ObjectState.
        """
        if self.kept is not None:
            raise ValueError("a run has the checkpoints of one state; this is a second one")
        if not isinstance(state, ObjectState):
            raise TypeError(f"a {type(state).__name__} is not a state of hvd.elastic")
        self.kept = state

    def export(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "parts": {name: one.value.state_dict() for name, one in self._handlers.items()},
            "values": self._values,
        }

    def digest(self) -> int:
        """That of parameters and optimizers; batch statistics are each rank's own in a script."""
        values = {name: one.value for name, one in self._handlers.items()}
        models = {k: v for k, v in values.items() if isinstance(v, torch.nn.Module)}
        optimizers = {k: v for k, v in values.items() if isinstance(v, torch.optim.Optimizer)}
        tensors = tensors_of(models, optimizers, buffers=False)
        return combined([one for _, one in digests_of(tensors)])

    def about(self) -> dict[str, Any]:
        """What a manifest says of it: of a script, only what it commits under these names is known.

        Numbers are the metrics that ``keep_best`` goes by; an ``epoch`` is the epoch.
        """
        numbers = {
            name: value for name, value in self._values.items() if type(value) in (int, float)
        }
        epoch = numbers.get("epoch", math.nan)
        epoch = {"epoch": epoch} if math.isfinite(epoch) else {}
        return {**epoch, "metrics": numbers}

    def begin(self, tree: Any, step: int) -> None:
        """Takes over a checkpoint; what it does not hold stays as the script made it.

        Raises ValueError when it is not one of such a state.
        """
        if not isinstance(tree, dict) or "parts" not in tree or "values" not in tree:
            raise ValueError(f"the checkpoint of step {step} does not hold a script's state")
        if FOREIGN in tree:
            raise Mistake(
                "SW5153",
                f"a script loads weights by itself: {tree[ORIGIN]} is no checkpoint of Swell; "
                "load it before elastic.checkpoint(state), or take a Task",
            )
        handlers, parts = self._handlers, tree.get(PARTS, ())
        whole = not parts
        differ = sorted({*handlers} ^ {*tree["parts"]} | {*self._values} ^ {*tree["values"]})
        if differ and whole:
            raise ValueError(f"the checkpoint and this script's state differ in {differ}")
        for name, part in tree["parts"].items():
            value = handlers[name].value if name in handlers else None
            if (whole and value is not None) or isinstance(value, torch.nn.Module):
                load_part(value, part)
            elif isinstance(value, torch.optim.Optimizer) and OPTIMIZER in parts:
                load_part(value, {**part, "param_groups": value.state_dict()["param_groups"]})
        for name, value in tree["values"].items() if whole else ():
            setattr(self.kept, name, value)
        self.step, self.clean = step, False  # clean once the script has committed it

    @property
    def _handlers(self) -> dict[str, Any]:
        """What a TorchState holds by ``state_dict``; an ObjectState has no such parts."""
        return dict(getattr(self.kept, "_handlers", {}))

    @property
    def _values(self) -> dict[str, Any]:
        """The plain values that an ObjectState commits, as they are now."""
        return {name: getattr(self.kept, name) for name in getattr(self.kept, "_saved_state", ())}
