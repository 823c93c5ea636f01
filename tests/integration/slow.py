"""The digits with a pause in each step: time for what is to happen, and not the processors'."""

from __future__ import annotations

import time

from torch import nn

from trainer.engine.step import Step
from trainer.tasks.digits import Digits

PAUSE = 0.02  # seconds


class Slow(Digits):
    """As ``Digits``."""

    def before_update(self, model: nn.Module, step: Step) -> None:
        time.sleep(PAUSE)
