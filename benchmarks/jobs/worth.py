"""The digits and the language model, with a device that takes its time for each sample.

On this machine all VMs share the cores, so one that is away would hardly slow the others. A device
waits, and does not compete: a worker whose share grows takes longer, as it would elsewhere.
"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn

from trainer.tasks import digits, lm


class Digits(digits.Digits):
    """3 ms for each image."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            time.sleep(0.003 * len(batch[0]))
        return super().loss(model, batch)


class LM(lm.LM):
    """50 ms for each window."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            time.sleep(0.05 * len(batch))
        return super().loss(model, batch)
