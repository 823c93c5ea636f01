"""In which precision a model computes. Its parameters, and all sums, stay in float32.

Autocast covers the loss alone: backward computes in what forward has. bfloat16 has float32's range;
float16 has not, so a loss is scaled up before backward, and the gradients down again once they are
summed. All workers see the same sums, so all skip the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.engine.mistake import Mistake

Name = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Computes in one precision.

    Args:
        name: ``fp32`` (the parameters' own), ``bf16`` or ``fp16``.
        device: where the model is.

    Attributes:
        scaler: for fp16; it belongs to the state.
    """

    def __init__(self, name: Name, device: torch.device) -> None:
        if name not in get_args(Name):
            raise Mistake("SW5142", f"precision is {name!r}; write fp32, bf16 or fp16")
        self._dtype = _DTYPES.get(name)
        self._device = device.type
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[object]:
        """To be entered around forward passes."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Goes back from a loss."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        torch.autograd.backward(loss)

    def unscale(self, optimizers: Sequence[Optimizer]) -> None:
        """Makes the gradients what they are; once they are summed, before they are used."""
        if self.scaler is not None:
            for optimizer in optimizers:
                self.scaler.unscale_(optimizer)

    def step(self, optimizers: Sequence[Optimizer]) -> None:
        """Updates the model, unless a gradient is too large for the precision."""
        for optimizer in optimizers:
            if self.scaler is None:
                optimizer.step()
            else:
                self.scaler.step(optimizer)
        if self.scaler is not None:
            self.scaler.update()
            for optimizer in optimizers:
                optimizer.zero_grad()  # one that was skipped has not used its gradients
